"""Is one method better than another? Paired by seed: both saw the same data in the same order.

The 95 % interval of the mean difference is that of the paired t-test, with one degree of freedom less than
there are seeds; it is exact if the differences are normal. With 3 seeds it reaches 4.3 standard errors to
each side, so only large and steady differences are called. The words of `paired` are not corrected for many
comparisons: `by_chance` says how many calls to expect from networks that do not differ, `holm` corrects the
p-values of a family that was fixed beforehand, `pairs_needed` says how many seeds a difference takes.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

BETTER, WORSE, SAME = "better", "worse", "not distinguishable"
LEVEL = 0.95
MOST_PAIRS = 2**20  # that `pairs_needed` counts to


@dataclass(frozen=True)
class Verdict:
    """Mean difference a - b over the common seeds, its interval, and the word for a.

    With fewer than two common seeds the interval is nan and nothing is distinguishable. p: of the paired
    t-test, two-sided, nan with fewer than two.
    """

    difference: float
    low: float
    high: float
    seeds: int
    word: str
    p: float = math.nan


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
    p = 2 * float(stats.t.sf(abs(middle) / error, len(differences) - 1))
    return Verdict(middle, low, high, len(differences), word, p)


def quantile(level: float, freedom: int) -> float:
    """Standard errors to each side of a two-sided Student interval; 4.303 for 0.95 and 2."""
    return float(stats.t.ppf((1 + level) / 2, freedom))


def by_chance(verdicts: int, level: float = LEVEL) -> float:
    """How many of so many verdicts would not be "not distinguishable" if no method differed."""
    return verdicts * (1 - level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: those at most `level` may be called together, and the chance of any false call among
    them is at most `level`, however the tests hang together (Holm, 1979). nan stays nan and is not counted.
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, worst = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - rank)))
        adjusted[place] = worst
    return adjusted


def pairs_needed(spread: float, effect: float, level: float = 1 - LEVEL, power: float = 0.8) -> int | None:
    """The smallest number of pairs (at least 2) with which a two-sided paired t-test at `level` finds a true
    difference `effect` with probability `power`; None above MOST_PAIRS. spread: standard deviation of the
    differences.

    Raises ValueError for an effect or a spread that is not above 0.
    """
    if not (effect > 0 and spread > 0):
        raise ValueError(f"effect {effect:g} and spread {spread:g} must be above 0")
    enough = 2
    while found_with(enough, spread, effect, level) < power:
        if enough >= MOST_PAIRS:
            return None
        enough *= 2
    return bisect_left(range(enough), power, lo=2, key=lambda n: found_with(n, spread, effect, level))


def found_with(pairs: int, spread: float, effect: float, level: float = 1 - LEVEL) -> float:
    """Probability that the test of `pairs_needed` calls a true difference `effect`."""
    bound = stats.t.isf(level / 2, pairs - 1)
    shift = effect * math.sqrt(pairs) / spread
    wrong_way = float(stats.nct.cdf(-bound, pairs - 1, shift))  # nan where it is too small for its series
    return float(stats.nct.sf(bound, pairs - 1, shift)) + (wrong_way if math.isfinite(wrong_way) else 0.0)
