"""Granularities by name, and the ratios that some fix. Costs no torch: settings and help pages read it."""

from __future__ import annotations

import re

CHOICES = ("weight", "2:4", "fanin", "kernel", "block:4x1", "channel")  # any N:M and any block:AxB
RATIO_OF = ("params", "macs")  # what a ratio counts: weights, or their multiply-adds
NEEDS = {"channel": ("torch_pruning",)}  # packages, by granularity


def neighbours(name: str) -> tuple[int, int] | None:
    """(N, M) of a pattern "N:M", 0 < N < M; None for any other text.

    >>> neighbours("2:4"), neighbours("4:2")
    ((2, 4), None)
    """
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", str(name))
    if found is None or int(found[1]) >= int(found[2]):
        return None
    return int(found[1]), int(found[2])


def fixed_ratio(name: str) -> float | None:
    """The ratio (percent) that a granularity leaves no choice of: 50 for "2:4"; None = any ratio."""
    pattern = neighbours(name)
    return None if pattern is None else 100 * (pattern[1] - pattern[0]) / pattern[1]
