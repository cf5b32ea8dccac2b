"""Surface normals: 1 - cosine; mean and median angle, shares of pixels within four angles.

Encoding "decoded": targets are unit vectors in [-1, 1]. Encoding "encoded": targets stay in their 0..255
encoding (n + 1) / 2 * 255 and are only normalised, as the published code trains on NYUv2; an angle is then
one between encoded vectors, which is not the angle between the normals.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.choices import not_one_of
from tasks.averages import Averages, divide
from tasks.base import (
    Direction,
    Geometry,
    Target,
    Task,
    at_least_float32,
    masked_mean,
    resize_prediction,
    resize_target,
)
from tasks.metric import Metric
from tasks.pictures import grey_out

NOTES = {
    "decoded": "angles are between normals",
    "encoded": "angles are between normals in their 0..255 encoding, as published, not between directions",
}
# encoding -> (factor, offset) that take a unit vector to a colour in [0, 1]
COLOURS = {"decoded": (0.5, 0.5), "encoded": (1.0, 0.0)}
BINS_PER_DEGREE = 100
THRESHOLDS = (11.25, 22.5, 30, 45)  # degrees, each a whole number of bins
CELLS = 90  # bins of directions along an edge of the cube, 1.3 degrees or less wide
CANDIDATES = 64
SMALLEST_LENGTH = 1e-30
DIRECTIONS = {
    "mean": Direction("deg", False),
    "median": Direction("deg", False),
    **{f"{threshold:g}": Direction("%", True) for threshold in THRESHOLDS},
}


def normals(*, encoding: str, geometry: Geometry | None = None) -> Task:
    """The task "sn"; targets [N, 3, H, W] of any length. Raises ValueError for an unknown encoding."""
    if encoding not in COLOURS:
        raise ValueError(not_one_of("encoding of normals", encoding, sorted(COLOURS)))
    return Task(
        name="sn",
        channels=3,
        loss=cosine_loss,
        metric=NormalsMetric,
        decode=decode,
        picture=partial(picture, encoding=encoding),
        directions=DIRECTIONS,
        geometry=geometry or Geometry(),
        note=NOTES[encoding],
        constant=BestDirection,
    )


def cosine_loss(prediction: Tensor, target: Target) -> Tensor:
    """1 - mean cosine over valid pixels, 0..2; 0 without any. Both [N, 3, ., .], any length."""
    prediction = at_least_float32(prediction)
    value, valid = resize_target(target, prediction.shape[-2:])
    cosine = (decode(prediction) * decode(value.to(prediction.dtype))).sum(1, keepdim=True)
    return masked_mean(1 - cosine, valid)


def decode(prediction: Tensor) -> Tensor:
    """[N, 3, h, w] of any length to unit vectors; a zero vector stays zero."""
    return functional.normalize(prediction, dim=1)


def picture(
    value: Tensor, valid: Tensor | None = None, like: Target | None = None, *, encoding: str
) -> np.ndarray:
    """Vectors [3, H, W] as the usual RGB map, uint8 [H, W, 3]: each channel of the direction as a colour."""
    factor, offset = COLOURS[encoding]
    direction = functional.normalize(value.float(), dim=0).permute(1, 2, 0).cpu().numpy()
    return grey_out(np.rint(255 * np.clip(factor * direction + offset, 0, 1)).astype(np.uint8), valid)


def angles(prediction: Tensor, target: Tensor) -> Tensor:
    """Degrees in 0..180 between prediction (unit length or zero) and target, [N, 3, H, W] -> [N, H, W].

    atan2(|a x b|, a . b) keeps float32's digits at every angle, where acos loses half of them near 0 and 180,
    and needs no target of unit length. With a zero vector the angle is 90.
    """
    a, b, c = prediction.unbind(1)
    x, y, z = target.unbind(1)
    square = (b * z - c * y).square_()
    square.add_((c * x - a * z).square_()).add_((a * y - b * x).square_())
    cosine = (a * x).addcmul_(b, y).addcmul_(c, z)
    # 1e-30 is lost beside any real length and turns 0 / 0 into a right angle
    return torch.atan2(square.sqrt_().add_(1e-30), cosine).rad2deg_()


class NormalsMetric(Averages):
    """mean and median angle, degrees; shares of pixels at most 11.25, 22.5, 30, 45 degrees off, percent.

    The published code pools the angles of all pixels, so both protocols give the same numbers.
    The median comes from a histogram with bins of 0.01 degree, the pixels of a bin spread evenly over it:
    it is within 0.01 degree of the exact one. The shares are exact: every threshold is a bin's edge.
    Without any pixel every value is nan. A prediction of NaN makes the mean NaN and counts as 180 degrees.
    """

    histogram: Tensor  # pixels per bin

    def __init__(self) -> None:
        super().__init__(("mean",))
        # bin i holds the angles in (i / 100, (i + 1) / 100], bin 0 the zeros too
        bins = torch.zeros(180 * BINS_PER_DEGREE, dtype=torch.int64)
        self.add_state("histogram", bins)

    def update(self, prediction: Tensor, target: Target) -> None:
        """prediction [N, 3, h, w], target [N, 3, H, W]; any length."""
        value, valid = target
        # unit length before the resizing: the same vectors, 64 times fewer
        unit = resize_prediction(decode(at_least_float32(prediction)), value.shape[-2:])
        valid = valid[:, 0]
        angle = angles(unit, value).masked_fill_(~valid, 0)
        total, pixels, number = angle.sum(dtype=torch.float64), valid.sum(), len(self.histogram)
        bins = angle.mul_(BINS_PER_DEGREE).ceil_().nan_to_num_(nan=number).clamp_(1, number)
        histogram = torch.bincount(bins.int().flatten(), minlength=number + 1)[1:]
        histogram[0] -= valid.numel() - pixels  # the invalid ones, counted as zeros
        self.add([total], [pixels], len(value))
        self.histogram += histogram

    def compute(self) -> dict[str, dict[str, float]]:
        below = self.histogram.cumsum(0)  # pixels at most (i + 1) / 100 degrees off
        pixels = int(below[-1])
        scores = {"mean": self.averages()["metric"]["mean"], "median": self._median(below, pixels)}
        for threshold in THRESHOLDS:
            scores[f"{threshold:g}"] = divide(100 * below[round(threshold * BINS_PER_DEGREE) - 1], pixels)
        return {"paper": scores, "metric": dict(scores)}

    def _median(self, below: Tensor, pixels: int) -> float:
        """Mean of the two middle angles (numpy's definition), each taken from its place within its bin."""
        if not pixels:
            return float("nan")
        middle = torch.tensor([(pixels - 1) // 2, pixels // 2], device=below.device)
        bins = torch.searchsorted(below, middle, right=True)
        count = self.histogram[bins]
        place = (middle - (below[bins] - count) + 0.5) / count  # 0..1 across the bin
        return float((bins + place).mean() / BINS_PER_DEGREE)


class BestDirection(Metric):
    """Scores of the best of 65 constant directions, one for each measure: the mean one and the 64 commonest.

    Directions are counted by the cells of a cube's faces, and each is taken for the mean one of its cell. An
    angle is less than 2 degrees off, their mean far less; all are exact where a cell holds one direction.
    """

    sums: Tensor  # [cells + 1, 4]: pixels and sum of unit vectors; the last row is that of zero vectors

    def __init__(self) -> None:
        super().__init__()
        zeros = torch.zeros(6 * CELLS**2 + 1, 4, dtype=torch.float64)
        self.add_state("sums", zeros)

    def update(self, target: Target) -> None:
        """target [N, 3, H, W], any length."""
        unit = decode(target.value.double()).movedim(1, -1)[target.valid[:, 0]]  # [P, 3]
        size, axis = unit.abs().max(1)
        side = unit.gather(1, axis[:, None])[:, 0] < 0
        others = torch.stack([(axis + 1) % 3, (axis + 2) % 3], 1)
        place = unit.gather(1, others) / size.clamp(min=SMALLEST_LENGTH)[:, None]
        row, column = ((place + 1) / 2 * CELLS).long().clamp(0, CELLS - 1).unbind(1)
        cell = ((2 * axis + side) * CELLS + row) * CELLS + column
        cell = torch.where(size > 0, cell, len(self.sums) - 1)
        self.sums.index_add_(0, cell, torch.cat([torch.ones_like(unit[:, :1]), unit], 1))

    def compute(self) -> dict[str, dict[str, float]]:
        used = self.sums[self.sums[:, 0] > 0]
        if not len(used):
            scores = dict.fromkeys(DIRECTIONS, float("nan"))
            return {"paper": scores, "metric": dict(scores)}
        count, vectors = used[:, 0], used[:, 1:]
        commonest = vectors[count.topk(min(CANDIDATES, len(count))).indices]
        candidates = decode(torch.cat([vectors.sum(0, keepdim=True), commonest]))
        angle = angles(candidates[:, :, None, None], decode(vectors).T[None, :, :, None])[..., 0]
        shares = {f"{limit:g}": 100 * (angle <= limit).double() @ count / count.sum() for limit in THRESHOLDS}
        found = {"mean": angle @ count / count.sum(), "median": _medians(angle, count), **shares}
        scores = {
            name: float(found[name].max() if larger else found[name].min())
            for name, (_, larger) in DIRECTIONS.items()
        }
        return {"paper": scores, "metric": dict(scores)}


def _medians(angle: Tensor, count: Tensor) -> Tensor:
    """The median of each row [R, K], its column k counted count[k] times; numpy's definition."""
    angle, order = angle.sort(1)
    below, pixels = count[order].cumsum(1), float(count.sum())
    middle = torch.tensor([(pixels - 1) // 2, pixels // 2], dtype=below.dtype, device=below.device)
    places = torch.searchsorted(below, middle.expand(len(angle), 2).contiguous(), right=True)
    return angle.gather(1, places).mean(1)
