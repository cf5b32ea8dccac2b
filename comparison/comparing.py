"""The table of a folder of results, for the scripts that show it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from comparison.report import Options, Report, report
from comparison.results import Result, read_results
from prune_utils.methods import METHODS

GROUPS = ("static", "dynamic", "gradual", "pretrained")


def setups() -> dict[str, str]:
    """Method -> group of the table, in the order of its rows: in each group peers first, DiSparse last.

    A method that trains rewound weights to the full length stands with the static ones, as in the paper.
    """
    rows = [("static" if row.start == "rewound" else row.setup, name) for name, row in METHODS.items()]
    return {name: group for group, name in sorted(reversed(rows), key=lambda row: GROUPS.index(row[0]))}


def compare(results: Sequence[Result], options: Options) -> Report:
    """The report on results. Raises ValueError."""
    return report(results, setups(), options)


def tables_by_ratio(folder: Path, dataset: str, ratios: Sequence[float], split: str) -> str:
    """One table for each sparsity, as compare_runs.py shows them."""
    results = [r for r in read_results([folder]) if r.dataset == dataset and r.split == split]
    texts = []
    for ratio in ratios:
        chosen = [result for result in results if result.ratio in (None, ratio)]
        if chosen:
            texts.append(compare(chosen, Options()).text("terminal", colour=sys.stdout.isatty()))
    return "\n\n".join(texts)
