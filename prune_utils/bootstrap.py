"""One-sided bounds by resampling images (the percentile bootstrap; Efron, 1979), seeded.

Two networks are seen on the same images, so both are resampled together: what is hard for both cancels. A
resample is a row of counts, how often each image is drawn; statistics that add up over images are then one
matrix product, and a measure of the sums is that of the resampled images. Left out: images that depend on
each other (frames of a film), for which bounds are too narrow.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .seeds import generator


def resample_counts(images: int, resamples: int, seed: int = 0) -> Tensor:
    """int64 [resamples, images]: how often each image is drawn; each row adds up to `images`.

    Raises ValueError unless there is an image and a resample.
    """
    for what, value in (("images", images), ("resamples", resamples)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} {value!r} is not a whole number of at least 1")
    drawn = torch.randint(images, (resamples, images), generator=generator(seed, "bootstrap", images))
    return torch.zeros(resamples, images, dtype=torch.int64).scatter_add_(1, drawn, torch.ones_like(drawn))


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


def upper_bound(values: Tensor, level: float) -> float:
    """The one-sided upper bound that the resampled values [resamples] give; NaN counts as the largest.

    >>> upper_bound(torch.arange(1.0, 20.0), 0.95)  # the 19th of 19
    19.0
    """
    place = check_level(level, len(values))
    return float(values.double().nan_to_num(nan=math.inf, posinf=math.inf).sort().values[place - 1])
