"""The watershed of an agreement curve: the layer where the tasks stop wanting the same weights.

The rule. The curve (agreement per layer, first to last) is smoothed to the closest curve that never rises
(least squares). Its largest step is the watershed if it is

- at least `LEAST` = 0.1: smaller steps matter to nobody,
- at least `STANDS_OUT` = 1.4 times the next largest step: a steady decline has no place where it happens,
- at least `OVER_NOISE` = 2 times the largest rise of the raw curve: agreement falls with depth, so a rise is
  noise, and noise falls as deep as it rises.

Otherwise there is none. The three numbers are chosen so that the three curves of DiSparse (Sun et al., CVPR
2022) get the layer that their figure shows, and flat and straight curves get none. A drop that spreads over
several layers is a decline, not a watershed. In a steep decline with noise of 0.02 to 0.05 a layer, one curve
in ten or so seems to have one, at a layer that changes with the seed: use `consensus` over several seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

LEAST, STANDS_OUT, OVER_NOISE = 0.1, 1.4, 2.0

Curve = Sequence[float | None]  # agreement per layer in [0, 1]; None = nobody keeps anything there


@dataclass(frozen=True)
class Step:
    """The largest step of a smoothed curve. index: the first layer behind it, in the curve.

    drop: its height. next: the next largest step. rise: the largest rise of the raw curve, or 0.
    """

    index: int
    drop: float
    next: float
    rise: float

    @property
    def is_watershed(self) -> bool:
        """Whether the step passes the rule of this file."""
        return self.drop >= max(LEAST, STANDS_OUT * self.next, OVER_NOISE * self.rise)


def largest_step(curve: Curve) -> Step | None:
    """The largest step of the curve, watershed or not; None for fewer than three layers with a value."""
    known = [(index, value) for index, value in enumerate(curve) if value is not None]
    if len(known) < 3:
        return None
    raw = [value for _, value in known]
    smooth = never_rising(raw)
    steps = [before - after for before, after in zip(smooth, smooth[1:], strict=False)]
    place = max(range(len(steps)), key=steps.__getitem__)
    others = max(step for index, step in enumerate(steps) if index != place)
    rise = max(0.0, *(after - before for before, after in zip(raw, raw[1:], strict=False)))
    return Step(known[place + 1][0], steps[place], others, rise)


def watershed(curve: Curve) -> int | None:
    """Index of the first layer behind the watershed, None where there is none."""
    step = largest_step(curve)
    return step.index if step is not None and step.is_watershed else None


def mean_curve(curves: Sequence[Curve]) -> list[float | None]:
    """Mean over the curves, layer by layer, of those that have a value there."""
    layers = ([value for value in layer if value is not None] for layer in zip(*curves, strict=True))
    return [fmean(values) if values else None for values in layers]


def consensus(curves: Sequence[Curve]) -> tuple[int | None, float]:
    """The watershed of the mean of several seeds' curves, and the share of seeds that name the same layer.

    Where the mean has none, the share of seeds that have none.
    """
    found = watershed(mean_curve(curves))
    return found, sum(watershed(curve) == found for curve in curves) / len(curves)


def never_rising(values: Sequence[float]) -> list[float]:
    """The closest curve, by least squares, that never rises: what rises is pooled to its mean."""
    pools: list[tuple[float, int]] = []  # mean, length
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (late, more), (early, some) = pools.pop(), pools.pop()
            pools.append(((late * more + early * some) / (more + some), more + some))
    return [mean for mean, length in pools for _ in range(length)]
