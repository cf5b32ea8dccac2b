"""Is one method better than another? Paired by seed: both saw the same data in the same order.

The 95 % interval of the mean difference is that of the paired t-test, with one degree of freedom less than
there are seeds; it is exact if the differences are normal. With 3 seeds it reaches 4.3 standard errors to
each side, so only large and steady differences are called. Leaves out any correction for many comparisons:
`by_chance` says how many calls to expect from networks that do not differ.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    """Mean difference a - b over the common seeds, its interval, and the word for a.

    With fewer than two common seeds the interval is nan and nothing is distinguishable.
    """

    difference: float
    low: float
    high: float
    seeds: int
    word: str


def paired(
    a: Mapping[int, float], b: Mapping[int, float], larger: bool = True, level: float = LEVEL
) -> Verdict:
    """Compare two methods' values by seed. larger: whether more is better. Seeds with a nan do not count."""
    seeds = sorted(seed for seed in set(a) & set(b) if math.isfinite(a[seed]) and math.isfinite(b[seed]))
    differences = [a[seed] - b[seed] for seed in seeds]
    if not differences:
        return Verdict(math.nan, math.nan, math.nan, 0, SAME)
    middle = math.fsum(differences) / len(differences)
    if len(differences) < 2:
        return Verdict(middle, math.nan, math.nan, 1, SAME)
    error = max(float(stats.sem(differences)), sys.float_info.min)  # scipy has no interval of width 0
    low, high = map(float, stats.t.interval(level, len(differences) - 1, loc=middle, scale=error))
    word = SAME
    if low > 0 or high < 0:
        word = BETTER if (low > 0) == larger else WORSE
    return Verdict(middle, low, high, len(differences), word)


def quantile(level: float, freedom: int) -> float:
    """Standard errors to each side of a two-sided Student interval; 4.303 for 0.95 and 2."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def by_chance(verdicts: int, level: float = LEVEL) -> float:
    """How many of so many verdicts would not be "not distinguishable" if no method differed."""
    return verdicts * (1 - level)
