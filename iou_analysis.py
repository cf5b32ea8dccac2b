# PYTHON_ARGCOMPLETE_OK
"""How far the tasks want the same weights, layer by layer, and where it stops: the watershed."""

from argparse import Namespace
from dataclasses import fields

from agreement.unused import LEAVE, refuse_unused
from common.command_line import described
from common.numbers import parse_numbers, parse_seeds
from common.text import files_table
from configs.arguments import flags_tree, parser
from configs.load import FOLDER, Tree, load, merge, read_settings
from configs.origins import settings_table
from configs.schema import CRITERIA, Config, Prune
from workflow import terminal

NUM_BATCHES = {"taskonomy": 200}  # where the paper takes others than for pruning
USED = ("num_batches", "batch_size", "criterion", "score_init")  # settings of pruning that an analysis reads
UNUSED = {field.name: LEAVE for field in fields(Prune) if field.name not in USED} | {
    "keep_ratio": "--keep-ratios {} says what each task keeps"
}
EXAMPLES = """\
  python3 iou_analysis.py --dataset nyuv2
  python3 iou_analysis.py --dataset taskonomy --keep-ratios 0.02,0.078,0.2 --seeds 3 --dest DIR
  python3 iou_analysis.py --dataset nyuv2 --init-from DIR/best_nyuv2_baseline.pth --dest DIR"""


COMMON = (
    "--dataset",
    "--data-root",
    "--tasks",
    "--dest",
    "--config",
    "--set",
    "--keep-ratios",
    "--num-batches",
    "--seeds",
    "--init-from",
)


def arguments() -> Namespace:
    result = parser(__doc__, EXAMPLES + terminal.load_plugins(), ("data", "network", "machine"), COMMON)
    add = result.add_argument_group("agreement").add_argument
    add("--keep-ratios", default="0.078", metavar="K,K", help="shares that each task keeps")
    batches = add("--num-batches", metavar="INT", help="batches that scores are taken on")
    described(batches, unset="50; taskonomy 200")
    add("--seeds", default="1", metavar="N|A,B", help="how many from --seed on, or a list")
    described(add("--criterion", metavar="NAME", help="saliency"), CRITERIA, "snip")
    source = add("--init-from", metavar="FILE", help="trained weights, dense or sparse, scored as they are")
    described(source, unset="a new initialisation")
    add("--overwrite", action="store_true", help="replace the files of an earlier run")
    return result.parse_args()


def _base(asked: Namespace) -> tuple[str, Tree] | None:
    """What this analysis sets for a data set, below files and flags."""
    if asked.dataset not in NUM_BATCHES:
        return None
    return "iou_analysis.py", {"prune": {"num_batches": NUM_BATCHES[asked.dataset]}}


def _config(asked: Namespace) -> Config:
    base, own = _base(asked), FOLDER / f"{asked.dataset}.yaml"
    whole = merge(read_settings(own), base[1]) if base else None
    return load(asked.dataset, asked.config, flags_tree(asked), whole)


def main() -> None:
    asked = arguments()
    if asked.print_config:
        print(settings_table(_config(asked), asked, _base(asked)))
        return
    refuse_unused(flags_tree(asked), UNUSED)
    keep_ratios = parse_numbers("--keep-ratios", asked.keep_ratios, float)
    for share in keep_ratios:
        if not 0 < share <= 1:
            raise ValueError(f"--keep-ratios {share:g} is not a share above 0 and up to 1, such as 0.078")
    terminal.check_files(asked.init_from)
    terminal.check_targets(asked.dest)
    terminal.check_packages("the picture of an analysis", "matplotlib")
    terminal.check_data(load(asked.dataset, asked.config, flags_tree(asked)).data)  # before the slow imports

    from agreement.analysis import METHOD, Analysis, analyse
    from agreement.files import paths, tables, write
    from workflow.experiment import open_experiment
    from workflow.files import Options, refuse_existing

    config = _config(asked)
    analysis = Analysis(tuple(keep_ratios), tuple(parse_seeds(asked.seeds, config.run.seed)), asked.init_from)
    experiment = open_experiment(config, METHOD, asked.dest, asked.name or f"{asked.dataset}_iou")
    where = paths(experiment.dest, experiment.name)
    with experiment.held():
        refuse_existing(list(where.values()), Options(overwrite=asked.overwrite))
        result = analyse(experiment, analysis)
        files = write(result, where) if experiment.fabric.is_global_zero else []
    if files:
        print(tables(result))
        print(files_table(f"{experiment.name} is done.", files))


if __name__ == "__main__":
    terminal.run(main)
