"""Target and Task: what the rest of the program knows about a task.

A task is a row of callables. A data set decides its channels and geometry (dataloaders/<set>.py), the task
itself owns loss, metric and picture. Nothing here knows a data set or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasks.metric import Metric


class Target(NamedTuple):
    """What a network should predict, and where that is known.

    value: [N, K, H, W] (without N before collation); float32, or int64 class numbers with K = 1.
    valid: bool [N, 1, H, W]; False = the pixel takes no part in loss or metric. `value` is finite everywhere.
    """

    value: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Geometry:
    """What an augmentation does to the values of a target, beside moving its pixels (always by nearest).

    hflip: the channel that changes sign when the image is flipped left to right, None = no channel.
    scale: "keep", "divide" (metric depth: enlarged is nearer) or "multiply" (disparity) by the factor.
    """

    hflip: int | None = None
    scale: str = "keep"


class Direction(NamedTuple):
    """How to read a metric: its unit for people, and whether larger is better."""

    unit: str
    larger_is_better: bool


@dataclass(frozen=True)
class Task:
    """One task of a multitask network.

    loss(prediction [N, channels, h, w], target) -> scalar, target resized by nearest to the prediction.
    metric() -> Metric with update(prediction, target) and
        compute() -> {"paper": {name: float}, "metric": {name: float}}.
    picture(value [K, H, W] tensor, valid [1, H, W] | None, like=None) -> uint8 RGB array [H, W, 3]; takes a
        target's value; `like`, a Target of one image, lends its range, so that a prediction and its target
        show equal values in equal colours. Invalid pixels are mid-grey.
    decode(prediction [N, channels, h, w]) -> [N, K, h, w] in the target's terms (class numbers, values...).
    directions: metric name -> Direction, in the order in which people read them; same names as compute().
    note: what a reader of its scores must know, "" for nothing.
    constant() -> Metric with update(target) and compute() as that of `metric`: for each measure
        the score of the answer that is best in it among those which are equal at every pixel. None = unknown.
    """

    name: str
    channels: int
    loss: Callable[[Tensor, Target], Tensor]
    metric: Callable[[], Metric]
    decode: Callable[[Tensor], Tensor]
    picture: Callable[..., np.ndarray]
    directions: dict[str, Direction]
    geometry: Geometry = field(default_factory=Geometry)
    note: str = ""
    constant: Callable[[], Metric] | None = None


def nearest_index(source: int, size: int, device: torch.device | str | None = None) -> Tensor:
    """The position, int64 [size], that nearest resizing of `source` positions reads for each of `size`."""
    # asked of interpolate itself: its rounding is the convention; float32 counts exactly up to 2 ** 24
    positions = torch.arange(source, dtype=torch.float32, device=device)
    return functional.interpolate(positions[None, None], size=size)[0, 0].long()


def resize_nearest(value: Tensor, size: Sequence[int]) -> Tensor:
    """value [..., H, W] of any dtype at another size (h, w): what F.interpolate "nearest" gives, by index."""
    height, width = value.shape[-2:]
    if (height, width) == tuple(size):
        return value
    rows, columns = nearest_index(height, size[0], value.device), nearest_index(width, size[1], value.device)
    if size[0] < height:  # fewest elements first
        return value.index_select(-2, rows).index_select(-1, columns)
    return value.index_select(-1, columns).index_select(-2, rows)


def resize_target(target: Target, size: Sequence[int]) -> Target:
    """The target at another size (h, w), by nearest neighbour."""
    return Target(resize_nearest(target.value, size), resize_nearest(target.valid, size))


def resize_prediction(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """The prediction [N, C, h, w] at another size, by nearest neighbour: metrics are at target size."""
    same = prediction.shape[-2:] == tuple(size)
    return prediction if same else functional.interpolate(prediction, size=tuple(size))


def at_least_float32(prediction: Tensor) -> Tensor:
    """Half precision predictions as float32; the others as they are. Sums over an image need the digits."""
    return prediction.to(torch.promote_types(prediction.dtype, torch.float32))


def masked_mean(value: Tensor, valid: Tensor) -> Tensor:
    """Mean of value over the pixels that are valid (same shapes), without control flow.

    Without any valid pixel it is 0 with gradient 0, still connected to the graph.
    """
    return torch.where(valid, value, 0).sum() / valid.sum().clamp(min=1)
