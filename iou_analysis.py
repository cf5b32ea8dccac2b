"""How far the tasks want the same weights, layer by layer, and where it stops: the watershed."""

from argparse import Namespace

from common.numbers import parse_numbers, parse_seeds
from common.text import files_table
from configs.arguments import flags_tree, parser
from configs.load import FOLDER, load, merge, read_yaml
from workflow import terminal

EXAMPLES = """\
  python3 iou_analysis.py --dataset nyuv2
  python3 iou_analysis.py --dataset taskonomy --keep-ratios 0.02,0.078,0.2 --seeds 3 --dest DIR
  python3 iou_analysis.py --dataset nyuv2 --init-from DIR/best_nyuv2_baseline.pth --dest DIR"""


def arguments() -> Namespace:
    result = parser(__doc__, EXAMPLES + terminal.load_plugins(), ("data", "network", "machine"))
    add = result.add_argument_group("agreement").add_argument
    add("--keep-ratios", default="0.078", metavar="K,K", help="share that each task keeps (0.078)")
    add("--num-batches", metavar="INT", help="batches that scores are taken on (50; taskonomy 200)")
    add("--seeds", default="1", metavar="N|A,B", help="how many from --seed on, or a list (1)")
    add("--criterion", metavar="NAME", help="saliency (snip)")
    add("--init-from", metavar="FILE", help="trained dense weights, scored as they are")
    add("--overwrite", action="store_true", help="replace the files of an earlier run")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    keep_ratios = parse_numbers("--keep-ratios", asked.keep_ratios, float)
    terminal.check_files(asked.init_from)
    terminal.check_targets(asked.dest)
    terminal.check_packages("the picture of an analysis", "matplotlib")
    terminal.check_data(load(asked.dataset, asked.config, flags_tree(asked)).data)  # before the slow imports

    from agreement.analysis import METHOD, NUM_BATCHES, Analysis, analyse
    from agreement.files import paths, tables, write
    from workflow.experiment import open_experiment
    from workflow.files import Options, refuse_existing

    base = None
    if asked.dataset in NUM_BATCHES:
        more = {"prune": {"num_batches": NUM_BATCHES[asked.dataset]}}
        base = merge(read_yaml(FOLDER / f"{asked.dataset}.yaml"), more)
    config = load(asked.dataset, asked.config, flags_tree(asked), base)
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
