"""What the commands of this room share: the settings of a data set, and its options."""

from __future__ import annotations

import argparse
from dataclasses import replace

from common.command_line import Parser, described
from configs.load import load
from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.writing import default_workers


def data_parser(command: str, description: str) -> Parser:
    """A parser with the data set, its folder, and which of its files are read."""
    p = Parser(prog=f"python3 -m dataloaders.{command}", description=description)
    p.add_argument("dataset", choices=DATASETS, metavar="DATASET", help="data set")
    p.add_argument("root", help="folder of the data set, with its index file")
    tasks = p.add_argument("--tasks", help="comma-separated, only their files are opened")
    described(tasks, unset="all")
    own = "that of configs/DATASET.yaml"
    described(p.add_argument("--classes", type=int, help="segmentation classes"), unset=own)
    described(p.add_argument("--size", type=int, help="side to which files are resized"), unset=own)
    p.add_argument(
        "--allow-overlap", action="store_true", help="go on though images are learnt from and scored on"
    )
    p.add_argument("--workers", type=int, default=default_workers(), help="processes")
    return p


def data_settings(a: argparse.Namespace, cache: str | None = None) -> Data:
    """The data set's own settings with what the command line says laid over; all tasks if it names none."""
    given = {"root": a.root, "classes": a.classes, "size": a.size, "tasks": a.tasks}
    given["allow_overlap"] = a.allow_overlap
    said = {name: value for name, value in given.items() if value is not None}
    data = load(a.dataset, flags={"data": said}).data
    return replace(data, cache=cache, tasks=data.tasks if a.tasks else DATASETS[a.dataset].task_names)
