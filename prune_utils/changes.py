"""How much a score changed against a reference, signed so that up is better. Plain numbers, no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean


def change(value: float, dense: float, larger: bool) -> float:
    """(value - dense) / |dense|, signed so that up is better; nan for a dense value of 0.

    >>> change(9.0, 10.0, larger=True), change(11.0, 10.0, larger=False)
    (-0.1, -0.1)
    """
    if not dense:
        return math.nan
    return (value - dense) / abs(dense) * (1 if larger else -1)


def drop(changes: Iterable[float]) -> float:
    """How far a task fell, in percent: minus the mean of its measures' changes. Below 0 it rose.

    >>> drop([-0.04, 0.02])
    1.0
    """
    return -100 * fmean(changes)
