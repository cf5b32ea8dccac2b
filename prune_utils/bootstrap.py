"""One-sided bounds by resampling images, seeded.

Two networks are seen on the same images, so both are resampled together: what is hard for both cancels. A row
of counts says how often each image is taken; statistics that add up over images are then one matrix product,
and a measure of the sums is that of the taken images.

A bound is the larger of two: the percentile of the resampled values (Efron, 1979), and that of the
studentised ones, the bootstrap-t (Efron, 1982; Hall, 1988), with standard errors from leaving each image out
(the jackknife). On few images each comes out too small where the other does not: the percentile where a few
images lose far more than the rest, the studentised one where a few lose far less. Left out: images that
depend on each other (frames of a film), for which bounds are too narrow, and what no image shows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .seeds import generator

# A resample may lack the only images that differ, and then seems exact: no standard error is taken to be less
# than this share of that of all images.
LEAST_ERROR = 0.5


class Bootstrap:
    """Rows of counts of some images, and the bound of a statistic that is known for each row.

    counts: int64 [1 + images + resamples, images]: every image once; without each of them in turn; drawn with
        replacement, as many as there are.
    Raises ValueError unless there is an image and a resample, for a level that is not between 0 and 1, and
    for one that takes more resamples.

    >>> scores = torch.tensor([1.0, 2.0, 4.0, 3.0])
    >>> images = Bootstrap(4, 99, 0.9)
    >>> mean, bound = images.bound(images.counts.float() @ scores / images.counts.sum(1))
    >>> mean < bound
    True
    """

    def __init__(self, images: int, resamples: int, level: float, seed: int = 0) -> None:
        for what, value in (("images", images), ("resamples", resamples)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{what} {value!r} is not a whole number of at least 1")
        self.place = check_level(level, resamples)
        drawn = torch.randint(images, (resamples, images), generator=generator(seed, "bootstrap", images))
        whole = torch.ones(1, images, dtype=torch.int64)
        without = 1 - torch.eye(images, dtype=torch.int64)
        rows = torch.zeros(resamples, images, dtype=torch.int64)
        self.counts = torch.cat([whole, without, rows.scatter_add_(1, drawn, torch.ones_like(drawn))])

    def bound(self, values: Tensor) -> tuple[float, float]:
        """The statistic of all images, and its one-sided upper bound at the level.

        values: [1 + images + resamples], the statistic of each row of `counts`; NaN counts as the largest.
        """
        images = self.counts.shape[1]
        whole, without, drawn = values.double().split([1, images, len(self.counts) - 1 - images])
        found, upper = float(whole), self._quantile(drawn)
        influence = (images - 1) * (without.mean() - without)  # the jackknife's, of each image
        error = influence.square().mean().div(max(images - 1, 1)).sqrt()
        if images > 1 and error != 0:  # NaN where an image that is left out leaves nothing to measure
            shares = self.counts[1 + images :].double() / images
            spread = shares @ influence.square() - (shares @ influence).square()
            errors = spread.clamp(min=0).div(images - 1).sqrt().clamp(min=LEAST_ERROR * float(error))
            studentised = found + float(error) * self._quantile((whole - drawn) / errors)
            upper = math.inf if math.isnan(studentised) else max(upper, studentised)
        return found, upper

    def _quantile(self, values: Tensor) -> float:
        return float(values.nan_to_num(nan=math.inf, posinf=math.inf).sort().values[self.place - 1])


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
