# PYTHON_ARGCOMPLETE_OK
"""`python3 -m dataloaders.prepare nyuv2|cityscapes|taskonomy SOURCE DEST`: convert an official download.

Can be stopped and started again: finished records are kept, a file appears under its name only when it is
whole, and the index is written last.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from common import commands
from common.choices import printable
from common.command_line import Parser, ending
from common.files import write_json
from dataloaders.prepare import cityscapes, nyuv2, taskonomy
from dataloaders.prepare.plan import Index, carry_out
from dataloaders.writing import claimed, default_workers

PREPARERS = {"nyuv2": nyuv2, "cityscapes": cityscapes, "taskonomy": taskonomy}
MARKER = "prepare.json"


def parser() -> Parser:
    """The command line; each data set adds its own options."""
    top = Parser(prog="python3 -m dataloaders.prepare", description=str(__doc__).split("\n")[0])
    sets = top.add_subparsers(dest="dataset", required=True, metavar="{" + ",".join(PREPARERS) + "}")
    for name, module in PREPARERS.items():
        summary = str(module.__doc__).split("\n")[0]
        p = sets.add_parser(name, help=summary, description=module.__doc__, prog=f"{top.prog} {name}")
        p.add_argument("source", type=Path, help=module.SOURCE_HELP)
        p.add_argument("dest", type=Path, help="folder to write, made when missing")
        p.add_argument("--workers", type=int, default=default_workers(), help="processes")
        module.add_options(p)
    return top


def prepare(a: argparse.Namespace) -> tuple[Index, list[str]]:
    """Convert; returns the index and a sentence for each record left out.

    ValueError or OSError with one sentence where source or folder is wrong, before the folder is claimed.
    """
    module = PREPARERS[a.dataset]
    if not a.source.exists():
        raise FileNotFoundError(f"{a.source} does not exist: {module.SOURCE_HELP}")
    plan = module.plan(a)
    options = {k: str(v) for k, v in vars(a).items() if k not in ("dataset", "source", "dest", "workers")}
    settings = {"dataset": a.dataset, "source": str(a.source.resolve()), **options}
    with claimed(a.dest, MARKER, settings):
        index, broken = carry_out(plan, a.workers)
        write_json(a.dest / module.INDEX_FILE, index)  # last: its presence means a complete set
    return index, broken


def convert(a: argparse.Namespace) -> int:
    """0, or 1 if records were left out, each of which is named."""
    index, broken = prepare(a)
    print(f"{a.dataset} in {a.dest}")
    for split, records in index.items():
        print(f"  {split:<6} {len(records):>6} records")
    if broken:
        print(f"{len(broken)} records are left out:", *(f"  {printable(b)}" for b in broken), sep="\n")
    print(f"check it: {commands.module('dataloaders.check')} {a.dataset} {a.dest}")
    return 1 if broken else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0, 1 if records were left out, 2 after one sentence about what is wrong."""
    return ending(partial(convert, parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
