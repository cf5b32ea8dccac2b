"""`python3 -m dataloaders.cache DATASET ROOT FOLDER`: make all entries of a cache ahead of training."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial

from dataloaders import DATASETS
from dataloaders.commands import data_parser, data_settings, ending
from dataloaders.plane_cache import build
from dataloaders.writing import run_all

CHUNK = 8  # records that a process takes at a time


def make(a: argparse.Namespace) -> int:
    """0, or 1 if samples cannot be read, each of which is named."""
    row, data = DATASETS[a.dataset], data_settings(a, a.folder)
    broken: list[str] = []
    tasks = row.make_tasks(data.tasks, data, "metric")
    for split, records in row.open_all(data, tasks, "metric").items():
        parts = [
            replace(records, entries=records.entries[first : first + CHUNK])
            for first in range(0, len(records), CHUNK)
        ]
        broken += sum(run_all(build, parts, a.workers, split), [])
    for sentence in broken:
        print(sentence)
    return 1 if broken else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0, 1 if samples cannot be read, 2 after one sentence about a mistake."""
    p = data_parser("cache", "Make all entries of a cache ahead of training.")
    p.add_argument("folder", help="folder of the cache, as for --set data.cache")
    return ending(partial(make, p.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
