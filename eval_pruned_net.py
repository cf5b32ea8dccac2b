"""Evaluate any saved network, dense or sparse: scores in both protocols, a JSON file, pictures."""

import argparse

from common.names import BASELINE
from common.text import files_table
from configs.arguments import flags_tree, parser
from configs.load import overlay
from prune_utils.methods import METHODS, method
from workflow import terminal

ENGINES: dict[str, tuple[str, ...]] = {  # with the packages that each needs
    "dense": (),
    "sparse": (),
    "onnx": ("onnx", "onnxruntime"),
}
EXAMPLES = """\
  python3 eval_pruned_net.py --dataset nyuv2 --method disparse_static --ratio 90 --model-path DIR
  python3 eval_pruned_net.py --dataset nyuv2 --method baseline --dest DIR --pictures 4
  python3 eval_pruned_net.py --dataset nyuv2 --method disparse_static --ratio 90 --weights best_nyuv2.pth"""


def arguments() -> argparse.Namespace:
    result = parser(__doc__, EXAMPLES + terminal.load_plugins(), ("data", "network", "machine"))
    result.add_argument("--model-path", dest="dest", metavar="DIR", help="the same as --dest")
    result.add_argument("--ratio", metavar="FLOAT", help="sparsity, part of the network's name (90)")
    names = ", ".join((BASELINE, *METHODS))
    result.add_argument("--method", metavar="NAME", help=f"{names} (that of --weights, else disparse_static)")
    result.add_argument(
        "--weights", metavar="FILE", help="this file, not best_{name}.pth; published ones too"
    )
    result.add_argument("--split", default="test", help="split of the index to evaluate on (test)")
    result.add_argument("--pictures", default="0", metavar="N", help="PNG panels of N images")
    result.add_argument("--engine", metavar="NAME", help="run it as deployed: " + ", ".join(ENGINES))
    result.add_argument("--overwrite", action="store_true", help="also replace scores of something else")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    if asked.method not in (None, BASELINE):
        method(asked.method)
    if not asked.pictures.isdecimal():
        raise ValueError(f"--pictures '{asked.pictures}' is not a whole number of at least 0")
    if asked.engine not in (None, *ENGINES):
        raise ValueError(f"--engine '{asked.engine}' is not one of {', '.join(ENGINES)}")
    terminal.check_packages(f"--engine {asked.engine}", *ENGINES.get(asked.engine, ()))
    given = overlay(asked.dataset, asked.config, flags_tree(asked))
    terminal.check_files(asked.weights)

    from workflow.evaluate import evaluate_network, held, open_saved

    experiment, saved = open_saved(asked, given)
    with held(experiment, saved, asked.split):
        text, files = evaluate_network(
            experiment, saved, asked.split, int(asked.pictures), asked.engine, asked.overwrite
        )
    if experiment.fabric.is_global_zero:
        print(text)
        print(files_table(f"evaluated {saved.path} on {asked.split}.", files))


if __name__ == "__main__":
    terminal.run(main)
