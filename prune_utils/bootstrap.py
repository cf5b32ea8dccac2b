"""One-sided bounds by resampling images, seeded.

Two networks are seen on the same images, so both are resampled together: what is hard for both cancels. A row
of counts says how often each image is taken; statistics that add up over images are then one matrix product,
and a measure of the sums is that of the taken images.

A bound is the larger of two: the percentile of the resampled values (Efron, 1979), and that of the
studentised ones, the bootstrap-t (Efron, 1982; Hall, 1988). On few images the percentile is too small where a
few images lose far more than the rest, the studentised one where a few lose far less. Standard errors come
from leaving each image out (the jackknife): each image has an influence, and a resample's error is that of
the influences it took, which is exact for means and an approximation for what is none. Left out: images that
depend on each other (frames of a film), for which bounds are too narrow, and what no image shows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .seeds import generator

KIND = "percentile and bootstrap-t"  # stands in files beside bounds
MOST_UNITS = 500  # of more images, neighbours are taken together, so that memory does not grow with them
# A resample may lack the only images that differ, and then seems exact: no standard error is taken to be less
# than this share of that of all images.
LEAST_ERROR = 0.5


class Bootstrap:
    """Rows of counts of some images, and the bound of a statistic that is known for each row.

    images, resamples: how many. Images are taken one by one, above MOST_UNITS in units of neighbours.
    unit: int64 [images], the unit of each.
    counts: int64 [1 + units + resamples, units]: every unit once; without each of them in turn; drawn with
        replacement, as many as there are.
    Raises ValueError unless there is an image and a resample, for a level that is not between 0 and 1, and
    for one that takes more resamples.

    >>> scores = torch.tensor([1.0, 2.0, 4.0, 3.0])
    >>> images = Bootstrap(4, 99, 0.9)
    >>> mean, bound = images.bound(images.totals(scores) / images.totals(torch.ones(4)))
    >>> mean < bound
    True
    """

    def __init__(self, images: int, resamples: int, level: float, seed: int = 0) -> None:
        for what, value in (("images", images), ("resamples", resamples)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{what} {value!r} is not a whole number of at least 1")
        self.place = check_level(level, resamples)
        units = min(images, MOST_UNITS)
        self.unit = torch.arange(images) * units // images
        drawn = torch.randint(units, (resamples, units), generator=generator(seed, "bootstrap", units))
        whole = torch.ones(1, units, dtype=torch.int64)
        without = 1 - torch.eye(units, dtype=torch.int64)
        rows = torch.zeros(resamples, units, dtype=torch.int64)
        self.counts = torch.cat([whole, without, rows.scatter_add_(1, drawn, torch.ones_like(drawn))])

    def by_unit(self, values: Tensor) -> Tensor:
        """values: [images, ...] -> [units, ...], added up."""
        if len(values) != len(self.unit):
            raise ValueError(f"there are values of {len(values)} images, not of {len(self.unit)}")
        total = torch.zeros(self.counts.shape[1], *values.shape[1:], dtype=values.dtype)
        return total.index_add_(0, self.unit, values)

    def totals(self, values: Tensor) -> Tensor:
        """values: [images] -> float64 [rows of `counts`], what the images of each row add up to."""
        return self.counts.double() @ self.by_unit(values.double())

    def bound(self, values: Tensor) -> tuple[float, float]:
        """The statistic of all images, and its one-sided upper bound at the level.

        values: [rows of `counts`], the statistic of each; NaN counts as the largest. The bound is infinite
        where leaving an image out leaves nothing to measure. Raises ValueError for another shape.
        """
        rows, units = self.counts.shape
        if values.shape != (rows,):
            raise ValueError(
                f"values are of shape {tuple(values.shape)}, not ({rows},): one for each row of counts"
            )
        whole, without, drawn = values.double().split([1, units, rows - 1 - units])
        found, upper = float(whole), self._quantile(drawn)
        influence = (units - 1) * (without.mean() - without)
        error = influence.square().mean().div(max(units - 1, 1)).sqrt()
        if units > 1 and error != 0:  # NaN where there is nothing left to measure
            shares = self.counts[1 + units :].double() / units
            spread = shares @ influence.square() - (shares @ influence).square()
            errors = spread.clamp(min=0).div(units - 1).sqrt().clamp(min=LEAST_ERROR * float(error))
            studentised = found + float(error) * self._quantile((whole - drawn) / errors)
            upper = math.inf if math.isnan(studentised) else max(upper, studentised)
        return found, upper

    def _quantile(self, values: Tensor) -> float:
        known = values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        return float(known.sort().values[self.place - 1])


def check_level(level: float, resamples: int) -> int:
    """The place, 1-based, of the bound among the sorted resamples: ceil(level * (resamples + 1)).

    Raises ValueError for a level that is not between 0 and 1, or for which there are too few resamples.
    """
    if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < 1:
        raise ValueError(f"level {level!r} is not a number between 0 and 1")
    # a product that arithmetic put a hair above a whole number stays at it
    place = max(1, math.ceil(level * (resamples + 1) * (1 - 1e-12)))
    if place > resamples:
        least = math.ceil(level / (1 - level) * (1 - 1e-9))
        raise ValueError(f"level {level!r} needs at least {least} resamples, not {resamples}")
    return place
