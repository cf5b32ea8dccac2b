# PYTHON_ARGCOMPLETE_OK
"""Evaluate any saved network, dense or sparse: scores in both protocols, a JSON file, pictures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from common.choices import not_one_of
from common.command_line import described
from common.names import BASELINE
from common.text import files_table
from configs.arguments import EXPERIMENT, flags_tree, parser
from configs.load import Tree, carried, overlay
from configs.origins import settings_table
from configs.schema import Run
from prune_utils.methods import METHODS
from workflow import terminal

if TYPE_CHECKING:
    from workflow.experiment import Experiment
    from workflow.networks import Saved

ENGINES: dict[str, tuple[str, ...]] = {  # with the packages that each needs
    "dense": (),
    "sparse": (),
    "sparse-bf16": (),
    "onnx": ("onnx", "onnxruntime"),
}
EXAMPLES = """\
  python3 eval_pruned_net.py --dataset nyuv2 --method disparse_static --ratio 90 --model-path DIR
  python3 eval_pruned_net.py --dataset nyuv2 --method baseline --dest DIR --pictures 4
  python3 eval_pruned_net.py --dataset nyuv2 --method disparse_static --ratio 90 --weights best_nyuv2.pth
  python3 eval_pruned_net.py --dataset nyuv2 --contract DIR/nyuv2_disparse_pt_contract_limits.json"""


COMMON = (
    *EXPERIMENT,
    "--weights",
    "--split",
    "--pictures",
    "--protocol",
    "--engine",
    "--contract",
)


def arguments() -> argparse.Namespace:
    result = parser(__doc__, EXAMPLES + terminal.load_plugins(), ("data", "network", "machine"), COMMON)
    path = result.add_argument("--model-path", dest="dest", metavar="DIR", help="the same as --dest")
    described(path, unset="outputs")
    ratio = result.add_argument("--ratio", metavar="FLOAT", help="sparsity, part of the network's name")
    described(ratio, unset="90")
    chosen = result.add_argument("--method", metavar="NAME", help="see docs/methods.md; baseline: dense")
    described(chosen, (BASELINE, *METHODS), "that of --weights, else disparse_static")
    weights = result.add_argument("--weights", metavar="FILE", help="any saved network, published ones too")
    described(weights, unset="best_{name}.pth in --dest")
    split = result.add_argument("--split", default="test", help="split of the index to evaluate on")
    described(split, ("train", "val", "test"))
    result.add_argument("--pictures", default="0", metavar="N", help="PNG panels of N images")
    engine = result.add_argument("--engine", metavar="NAME", help="run the network as deployed")
    described(engine, ENGINES, "PyTorch, as in training")
    contract = "check the limits of this certificate on --split; status 1 where one is broken"
    result.add_argument("--contract", metavar="FILE", help=contract)
    result.add_argument("--overwrite", action="store_true", help="also replace scores of something else")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    if asked.method is not None:
        terminal.find_method(asked.method)
    if not asked.pictures.isdecimal():
        raise ValueError(f"--pictures '{asked.pictures}' is not a whole number of at least 0")
    if asked.engine not in (None, *ENGINES):
        raise ValueError(not_one_of("--engine", asked.engine, ENGINES))
    terminal.check_packages(f"--engine {asked.engine}", *ENGINES.get(asked.engine, ()))
    given = overlay(asked.dataset, asked.config, flags_tree(asked))
    precision = given.get("run", {}).get("precision", Run.precision)
    if asked.engine and precision != Run.precision:
        raise ValueError(f"--engine {asked.engine} computes in 32 bits: leave --precision {precision} out")
    terminal.check_files(asked.weights, asked.contract)
    if asked.contract:
        check_contract(asked, given)
        return

    from workflow.evaluate import evaluate_network, held, open_saved

    experiment, saved = open_saved(asked, given)
    if asked.print_config:
        show_settings(asked, experiment, saved)
        return
    with held(experiment, saved, asked.split):
        text, files = evaluate_network(
            experiment, saved, asked.split, int(asked.pictures), asked.engine, asked.overwrite
        )
    if experiment.fabric.is_global_zero:
        print(text)
        print(files_table(f"evaluated {saved.path} on {asked.split}.", files))


def show_settings(asked: argparse.Namespace, experiment: "Experiment", saved: "Saved") -> None:
    """Print every setting and where it comes from."""
    base = (str(saved.path), carried(saved.content["config"])) if saved.content.get("config") else None
    print(settings_table(experiment.config, asked, base))


def check_contract(asked: argparse.Namespace, given: Tree) -> None:
    """Whether the network of a contract keeps its limits on a split."""
    for flag in ("weights", "method", "ratio", "engine"):
        if getattr(asked, flag) is not None:
            raise ValueError(
                f"--contract names the network itself: leave --{flag} {getattr(asked, flag)} out"
            )
    if int(asked.pictures):
        raise ValueError(f"--contract draws nothing: leave --pictures {asked.pictures} out")

    from workflow.contract_report import read_limits
    from workflow.evaluate import open_saved
    from workflow.recheck import contract_files, recheck

    path = Path(asked.contract)
    content = read_limits(path)
    network, dense = contract_files(path, content)
    asked.weights = str(network)
    run, made = given.setdefault("run", {}), content["config"]["run"]
    for field in ("precision", "channels_last"):  # of which scores depend by rounding
        if made.get(field) is not None:
            run.setdefault(field, made[field])
    experiment, saved = open_saved(asked, given)
    if asked.print_config:
        show_settings(asked, experiment, saved)
        return
    text, broken = recheck(experiment, saved, dense, content, asked.split)
    print(text)
    if broken:
        terminal.unmet(broken)


if __name__ == "__main__":
    terminal.run(main)
