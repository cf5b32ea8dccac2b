# PYTHON_ARGCOMPLETE_OK
"""`python3 -m dataloaders.cache DATASET ROOT FOLDER`: make all entries of a cache ahead of training."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.command_line import ending
from common.text import duration, file_size
from dataloaders import DATASETS
from dataloaders.commands import data_parser, data_settings
from dataloaders.plane_cache import build
from dataloaders.writing import run_all

CHUNK = 8  # records that a process takes at a time


def make(a: argparse.Namespace) -> int:
    """0, or 1 if samples cannot be read, each of which is named."""
    row, data = DATASETS[a.dataset], data_settings(a, a.folder)
    broken: list[str] = []
    tasks, begin = row.make_tasks(data.tasks, data, "metric"), time.monotonic()
    splits = row.open_all(data, tasks, "metric")
    counts = ", ".join(f"{len(records):,} of {split}" for split, records in splits.items())
    print(f"caching {counts} in {a.folder}, by {a.workers} processes", flush=True)
    for split, records in splits.items():
        parts = [
            replace(records, entries=records.entries[first : first + CHUNK])
            for first in range(0, len(records), CHUNK)
        ]
        broken += sum(run_all(build, parts, a.workers, split), [])
    for sentence in broken:
        print(sentence)
    held = sum(path.stat().st_size for path in Path(a.folder).rglob("*") if path.is_file())
    print(f"done in {duration(time.monotonic() - begin)}: {file_size(held)}, used with --cache {a.folder}")
    return 1 if broken else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0, 1 if samples cannot be read, 2 after one sentence about a mistake."""
    p = data_parser("cache", "Make all entries of a cache ahead of training.")
    p.add_argument("folder", help="folder of the cache, as for --set data.cache")
    return ending(partial(make, p.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
