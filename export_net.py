# PYTHON_ARGCOMPLETE_OK
"""Make a saved network small and fast to use: any of its tasks, as a sparse file, ONNX or a torch program."""

import argparse
from pathlib import Path
from typing import Any

from common.command_line import Parser, described
from common.files import check_apart, check_file
from common.lock import locked
from common.names import BASELINE, network_file
from common.text import files_table, table
from configs.load import DATASETS, overlay
from prune_utils.methods import METHODS
from workflow import terminal

FORMATS = ("sparse", "onnx", "torch")
EXAMPLES = """\
examples:
  python3 export_net.py --dataset nyuv2 --method disparse_static --ratio 90 --dest DIR
  python3 export_net.py --dataset nyuv2 --method disparse_static --ratio 90 --tasks sn --format onnx
  python3 export_net.py --weights DIR/best_nyuv2_disparse_static_90.pth --format sparse --half"""


def arguments() -> argparse.Namespace:
    result = Parser(description=__doc__, epilog=EXAMPLES)
    data = result.add_argument("--dataset", default="nyuv2", metavar="NAME", help="part of the file's name")
    described(data, DATASETS)
    row = result.add_argument(
        "--method", default="disparse_static", metavar="NAME", help="part of the file's name"
    )
    described(row, (BASELINE, *METHODS))
    result.add_argument("--ratio", type=float, default=90.0, help="part of the file's name")
    result.add_argument("--dest", default="outputs", metavar="DIR", help="folder of the files")
    described(result.add_argument("--name", help="of the experiment"), unset="DATASET_METHOD_RATIO")
    weights = result.add_argument("--weights", metavar="FILE", help="the network")
    described(weights, unset="best_{name}.pth or {name}.pth in --dest")
    described(
        result.add_argument("--tasks", metavar="A,B", help="only these tasks"), unset="all of the network"
    )
    described(result.add_argument("--format", default="sparse", metavar="NAME", help="of the file"), FORMATS)
    result.add_argument("--half", action="store_true", help="sparse: kept weights in 16 bits")
    result.add_argument(
        "--only-voted", action="store_true", help="also drop shared weights that only absent tasks wanted"
    )
    result.add_argument("--data-root", metavar="DIR", help="--only-voted: the data the network was made from")
    split = result.add_argument("--split", help="--only-voted: split to measure the change on")
    described(split, unset="test")
    described(result.add_argument("--out", metavar="FILE", help="what to write"), unset="beside the weights")
    return result.parse_args()


def source(asked: argparse.Namespace) -> Path:
    """The file or folder that the command line names: the best weights, else the network before training."""
    if asked.weights:
        return Path(asked.weights)
    from workflow.experiment import experiment_name

    overlay(asked.dataset, flags={"prune": {"ratio": asked.ratio}})  # complains about no percentage
    name = asked.name or experiment_name(asked.dataset, asked.method, asked.ratio)
    best, pruned = (Path(asked.dest) / f"{stem}.pth" for stem in (f"best_{name}", name))
    if not best.is_file() and not pruned.is_file():
        raise FileNotFoundError(f"there is no network {best} or {pruned}: --weights names another file")
    return best if best.is_file() else pruned


def drop_unvoted(
    asked: argparse.Namespace, path: Path, content: dict[str, Any], tasks: tuple[str, ...] | None
) -> dict[str, Any]:
    """The network without what only absent tasks wanted; prints what that does to the scores."""
    if not tasks:
        raise ValueError("--only-voted needs --tasks: with all tasks present every kept weight is wanted")
    from workflow import voted
    from workflow.saved import for_tasks

    for_tasks(content, tasks)  # complains about unknown tasks before any work
    experiment = voted.reopen(content, path.parent, asked.data_root)
    smaller = voted.only_voted(content, experiment, tasks)
    split = asked.split or "test"
    before, after = (voted.scores_of(of, experiment, tasks, split) for of in (content, smaller))
    dropped = sum(int((kept & ~smaller["mask"][name]).sum()) for name, kept in content["mask"].items())
    print(f"{dropped:,} kept weights were wanted by absent tasks only and are dropped")
    rows = voted.comparison(before, after, experiment.config.run.protocol)
    print(table(rows, (f"on {split}", "before", "after")), end="\n\n")
    return smaller


def target(asked: argparse.Namespace, named: Path, tasks: tuple[str, ...] | None, ending: str) -> Path:
    """What to write: --out, or beside the file or folder of the network, named by what was asked for."""
    words = ["-".join(tasks)] if tasks else []
    words += [word for word in ("only_voted", "half") if getattr(asked, word)]
    name = named.resolve().name if named.is_dir() else named.stem
    return Path(asked.out) if asked.out else named.parent / (".".join([name, *words]) + ending)


def main() -> None:
    asked = arguments()
    for flag, value in (("data-root", asked.data_root), ("split", asked.split)):
        if value is not None and not asked.only_voted:
            raise ValueError(f"--{flag} {value} is for --only-voted: give it, or leave --{flag} out")
    if asked.format == "onnx":
        terminal.check_packages("--format onnx", "onnx")

    from prune_utils.deploy.export import find_format
    from workflow.saved import export_saved, read_saved

    form = find_format(asked.format, asked.half)
    named = source(asked)
    path = network_file(named)
    tasks = None if asked.tasks is None else tuple(task for task in asked.tasks.split(",") if task)
    out = target(asked, named, tasks, form.ending)
    check_file(out, "--out")
    check_apart(out, "--out", path)
    content = read_saved(path)
    if asked.only_voted:
        content = drop_unvoted(asked, path, content, tasks)
    with locked(out.parent, out.name):
        done = export_saved(content, tasks, asked.format, out, asked.half)
    rows = [
        ("weights of these tasks", f"{done.prunable:,}"),
        ("kept by the mask", f"{done.kept:,}"),
        ("of them able to change an output", f"{done.live:,}"),
        ("channels before", f"{done.channels_before:,}"),
        ("channels that matter", f"{done.channels_after:,}"),
        ("bytes before", f"{path.stat().st_size:,}"),
        ("bytes now", f"{done.path.stat().st_size:,}"),
    ]
    print(table(rows))
    print(files_table(f"exported {path}.", [(done.path, f"the network, format {asked.format}")]))


if __name__ == "__main__":
    terminal.run(main)
