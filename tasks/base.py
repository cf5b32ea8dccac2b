"""Target and Task: what the rest of the program knows about a task.

A task is a row of callables. A data set decides its channels and geometry (dataloaders/<set>.py), the task
itself owns loss, metric and picture. Nothing here knows a data set or a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric


class Target(NamedTuple):
    """What a network should have said, and where we know it.

    value: [N, K, H, W] (without N before collation); float32, or int64 class numbers with K = 1.
    valid: bool [N, 1, H, W]; False = the pixel takes no part in loss or metric. `value` is finite everywhere.
    """

    value: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Geometry:
    """What an augmentation does to the values of a target, beside moving its pixels (always by nearest).

    mirror: the channel that changes sign when the image is mirrored, None = no channel.
    zoom: "keep", "divide" (metric depth: a zoomed scene is nearer) or "multiply" (disparity) by the factor.
    """

    mirror: int | None = None
    zoom: str = "keep"


class Direction(NamedTuple):
    """How to read a metric: its unit for people, and whether larger is better."""

    unit: str
    larger_is_better: bool


@dataclass(frozen=True)
class Task:
    """One task of a multitask network.

    loss(prediction [N, channels, h, w], target) -> scalar, target resized by nearest to the prediction.
    metric() -> torchmetrics.Metric with update(prediction, target) and
        compute() -> {"paper": {name: float}, "metric": {name: float}}.
    picture(value [K, H, W] tensor, valid [1, H, W] | None) -> uint8 RGB array [H, W, 3]; takes a target's value.
    decode(prediction [N, channels, h, w]) -> [N, K, h, w] in the target's terms (class numbers, unit vectors...).
    directions: metric name -> Direction, in the order in which people read them; same names as compute().
    """

    name: str
    channels: int
    loss: Callable[[Tensor, Target], Tensor]
    metric: Callable[[], Metric]
    decode: Callable[[Tensor], Tensor]
    picture: Callable[[Tensor, Tensor | None], np.ndarray]
    directions: dict[str, Direction]
    geometry: Geometry = field(default_factory=Geometry)


def resize_target(target: Target, size: tuple[int, int]) -> Target:
    """The target at another size (h, w), by nearest neighbour."""
    value, valid = target
    if value.shape[-2:] == size:
        return target
    dtype = value.dtype
    # float64 holds every class number and every float32 exactly, and nearest copies values
    value = functional.interpolate(value.double() if dtype.is_floating_point is False else value, size=size)
    return Target(value.to(dtype), functional.interpolate(valid.float(), size=size) > 0.5)


def resize_prediction(prediction: Tensor, size: tuple[int, int]) -> Tensor:
    """The prediction [N, C, h, w] at another size, by nearest neighbour (formats: metrics are at target size)."""
    return prediction if prediction.shape[-2:] == size else functional.interpolate(prediction, size=size)
