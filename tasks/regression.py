"""Regression of one value a pixel: L1 loss; mean absolute error. Keypoints and edges are two of these."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tasks.averages import Averages
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
from tasks.levels import Levels
from tasks.pictures import colour_map, grey_out


def regression(name: str, *, geometry: Geometry | None = None) -> Task:
    """A task `name` whose targets [N, 1, H, W] lie in [-1, 1]."""
    return Task(
        name=name,
        channels=1,
        loss=l1_loss,
        metric=RegressionMetric,
        decode=decode,
        picture=picture,
        directions={"err": Direction("", False)},
        geometry=geometry or Geometry(),
        constant=BestLevel,
    )


def l1_loss(prediction: Tensor, target: Target) -> Tensor:
    """Mean |prediction - target| over valid pixels, 0 without any; both [N, 1, ., .]."""
    prediction = at_least_float32(prediction)
    value, valid = resize_target(target, prediction.shape[-2:])
    return masked_mean((prediction - value).abs(), valid)


def decode(prediction: Tensor) -> Tensor:
    """[N, 1, h, w] as it is: the network predicts the values themselves."""
    return prediction


def picture(value: Tensor, valid: Tensor | None = None, like: Target | None = None) -> np.ndarray:
    """Values [1, H, W], -1 dark to 1 bright, uint8 RGB [H, W, 3]."""
    return grey_out(colour_map(value[0].float().cpu().numpy(), -1, 1, "magma"), valid)


class RegressionMetric(Averages):
    """err = mean |prediction - target|; paper = per batch, weighted by batch size, metric = over pixels.

    A batch without valid pixels adds nothing; without any pixel err is nan.
    """

    def __init__(self) -> None:
        super().__init__(("err",))

    def update(self, prediction: Tensor, target: Target) -> None:
        """prediction [N, 1, h, w], target [N, 1, H, W]."""
        value, valid = target
        error = (resize_prediction(at_least_float32(prediction), value.shape[-2:]) - value).abs_()
        self.add([torch.where(valid, error, 0).sum(dtype=torch.float64)], [valid.sum()], len(value))

    def compute(self) -> dict[str, dict[str, float]]:
        return self.averages()


class BestLevel(Levels):
    """err of the best constant among those from -1 to 1 in steps of 1 / 1024: the targets' median, nearly.

    Under `paper` a pixel weighs as its batch's size divided by the batch's valid pixels.
    """

    def __init__(self) -> None:
        super().__init__(torch.linspace(-1, 1, 2049, dtype=torch.float64), ("err",))

    def update(self, target: Target) -> None:
        """target [N, 1, H, W]."""
        value = target.value[target.valid]
        self.add(value, [torch.ones_like(value)], len(target.value))

    def compute(self) -> dict[str, dict[str, float]]:
        return self.best()
