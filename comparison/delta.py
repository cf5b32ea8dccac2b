"""One figure for a multitask network: its relative change against the dense one.

The mean over tasks of the mean over a task's measures, each signed so that up is better (Maninis et al.,
CVPR 2019, there with one measure a task).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean

from .results import Column

DELTA = Column("", "delta", "%", True)
FORMULA = (
    "delta = 100 % x mean over tasks of mean over the task's measures of s (value - dense) / |dense|, "
    "s = +1 where larger is better, else -1; dense has the same seed"
)


def delta(values: Mapping[Column, float], dense: Mapping[Column, float]) -> float:
    """Percent, above 0 is better than dense. Over the columns that both have.

    nan where a value is nan, a dense value is 0, or there is no common column.
    """
    changes: dict[str, list[float]] = {}
    for column, value in values.items():
        if column in dense:
            changes.setdefault(column.task, []).append(change(value, dense[column], column.larger))
    return 100 * fmean(map(fmean, changes.values())) if changes else math.nan


def change(value: float, dense: float, larger: bool) -> float:
    """(value - dense) / |dense|, signed so that up is better; nan for a dense value of 0."""
    if not dense:
        return math.nan
    return (value - dense) / abs(dense) * (1 if larger else -1)
