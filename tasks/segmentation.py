"""Semantic segmentation: cross entropy; mean intersection over union, pixel accuracy, cross entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tasks.averages import Averages, divide
from tasks.base import Direction, Target, Task, at_least_float32, nearest_index, resize_target
from tasks.pictures import PALETTE, grey_out

DIRECTIONS = {
    "mIoU": Direction("%", True),
    "pixel_acc": Direction("%", True),
    "err": Direction("", False),
}


def segmentation(
    channels: int, *, ignored_is_error: bool = False, class_weights: Sequence[float] | Tensor | None = None
) -> Task:
    """The task "seg" with `channels` classes; targets hold class numbers 0..channels-1, int64 [N, 1, H, W].

    ignored_is_error: the paper's pixel accuracy counts ignored pixels as errors (Cityscapes).
    class_weights: one weight a class for the cross entropy, in the loss and in "err" (Taskonomy).
    Raises ValueError unless there is one class weight for each class.
    """
    weights = None
    if class_weights is not None:
        weights = torch.as_tensor(class_weights, dtype=torch.float32).flatten()
        if len(weights) != channels:
            raise ValueError(f"{len(weights)} class weights were given for {channels} classes")
    return Task(
        name="seg",
        channels=channels,
        loss=partial(cross_entropy, class_weights=weights),
        metric=partial(SegmentationMetric, channels, ignored_is_error, weights),
        decode=decode,
        picture=picture,
        directions=DIRECTIONS,
        constant=partial(BestClass, channels, ignored_is_error, weights),
    )


def cross_entropy(prediction: Tensor, target: Target, class_weights: Tensor | None = None) -> Tensor:
    """Mean over valid pixels, weighted by the weight of each pixel's class as torch does; 0 without any.

    prediction: logits [N, C, h, w]; target int64 [N, 1, H, W].
    """
    prediction = at_least_float32(prediction)
    value, valid = resize_target(target, prediction.shape[-2:])
    nll = -prediction.log_softmax(1).gather(1, value)
    weight = valid.to(nll.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(nll)[value]
    smallest = torch.finfo(nll.dtype).tiny
    return torch.where(valid, nll * weight, 0).sum() / weight.sum().clamp(min=smallest)


def decode(prediction: Tensor) -> Tensor:
    """Logits [N, C, h, w] to class numbers, int64 [N, 1, h, w]."""
    return prediction.argmax(1, keepdim=True)


def picture(value: Tensor, valid: Tensor | None = None, like: Target | None = None) -> np.ndarray:
    """Class numbers [1, H, W] in fixed colours, uint8 RGB [H, W, 3]; more than 40 classes share colours."""
    return grey_out(PALETTE[value[0].cpu().numpy() % len(PALETTE)], valid)


class SegmentationMetric(Averages):
    """mIoU and pixel_acc in percent, err = cross entropy.

    mIoU, from the confusion matrix over all valid pixels:
        paper: mean over the classes with at least one true positive (0 if there is none);
        metric: mean over the classes that occur in labels or predictions.
    pixel_acc, err: paper = per batch, weighted by batch size; with `ignored_is_error` the accuracy of a
        batch is taken over all its pixels. metric = over valid pixels.
    A batch without valid pixels adds nothing. Without any pixel every value is nan.

    Nearest resizing copies, so it is enough to count how often each class is the label of each pixel of the
    network: classes and cross entropy are then taken at the network's resolution, with the same result.
    """

    class_weights: Tensor
    confusion: Tensor  # int64 [C, C], labels by predictions

    def __init__(
        self, channels: int, ignored_is_error: bool = False, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(("pixel_acc", "err"))
        self.channels = channels
        self.ignored_is_error = ignored_is_error
        weights = torch.ones(channels) if class_weights is None else class_weights
        self.register_buffer("class_weights", weights.double(), persistent=False)
        self.add_state("confusion", torch.zeros(channels, channels, dtype=torch.int64))

    def update(self, prediction: Tensor, target: Target) -> None:
        """prediction: logits [N, C, h, w]; target int64 [N, 1, H, W]. ValueError for an unknown class."""
        labels = self._labels(target, prediction.shape)  # [C, N, h * w]
        confusion = torch.zeros_like(self.confusion)
        classes = decode(prediction).flatten().expand(self.channels, -1)
        confusion.scatter_add_(1, classes, labels.flatten(1))
        nll = -at_least_float32(prediction).log_softmax(1).flatten(2).transpose(0, 1)
        # not the bare product: where no label is, an infinite nll counts nothing
        nll = torch.where(labels > 0, labels * nll, 0).sum((1, 2), dtype=torch.float64)
        pixels = confusion.sum()
        counts = [pixels, (confusion.sum(1) * self.class_weights).sum()]
        everything = torch.full_like(pixels, target.valid.numel())
        self.add(
            [confusion.diagonal().sum(), (nll * self.class_weights).sum()],
            counts,
            len(prediction),
            [everything if self.ignored_is_error else pixels, counts[1]],
        )
        self.confusion += confusion

    def _labels(self, target: Target, shape: torch.Size) -> Tensor:
        """int64 [C, N, h * w]: how many of the target's pixels of a class read this pixel of the network."""
        images, _, height, width = shape
        device, cells = target.value.device, images * height * width
        rows = nearest_index(height, target.value.shape[-2], device)[:, None]
        columns = nearest_index(width, target.value.shape[-1], device)
        first = torch.arange(images, device=device).view(-1, 1, 1, 1) * (height * width)
        place = (
            (target.value * cells).add_(rows * width + columns + (first + 1)).mul_(target.valid)
        )  # 0 = ignored
        count = torch.bincount(place.flatten(), minlength=self.channels * cells + 1)
        if len(count) > self.channels * cells + 1:
            largest = torch.where(target.valid, target.value, 0).max().item()
            raise ValueError(f"class {largest} in a seg target is not one of 0..{self.channels - 1}")
        return count[1:].view(self.channels, images, height * width)

    def counts(self) -> dict[str, int]:
        """How many classes have a true positive, and how many occur in the labels."""
        hit, occurring = self.confusion.diagonal() > 0, self.confusion.sum(1) > 0
        return {"classes_hit": int(hit.sum()), "classes": int(occurring.sum())}

    def compute(self) -> dict[str, dict[str, float]]:
        scores = self.averages()
        hits = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        overlap = hits.double() / union.clamp(min=1)
        anything = union.sum() > 0
        for protocol, classes in (("paper", hits > 0), ("metric", union > 0)):
            mean = overlap[classes].sum() / classes.sum().clamp(min=1)
            mean_iou = divide(100 * mean, anything)
            accuracy = 100 * scores[protocol]["pixel_acc"]
            scores[protocol] = {"mIoU": mean_iou, "pixel_acc": accuracy, "err": scores[protocol]["err"]}
        return scores


class BestClass(Averages):
    """Scores of the best constants, exact: of n_c pixels of class c among N, one answer c everywhere has

    mIoU: n_c / N under `paper` (no other class has a true positive), that divided by the number of classes
        which occur under `metric`; the commonest class is best;
    pixel_acc: the mean share of c, averaged as the metric averages;
    err: the entropy of the averaged shares, which is the smallest cross entropy of one distribution for all.
    """

    class_weights: Tensor

    def __init__(
        self, channels: int, ignored_is_error: bool = False, class_weights: Tensor | None = None
    ) -> None:
        super().__init__([f"{what} {c}" for what in ("pixels", "weight") for c in range(channels)])
        self.channels = channels
        self.ignored_is_error = ignored_is_error
        weights = torch.ones(channels) if class_weights is None else class_weights
        self.register_buffer("class_weights", weights.double(), persistent=False)

    def update(self, target: Target) -> None:
        """target int64 [N, 1, H, W]."""
        count = torch.bincount(target.value[target.valid], minlength=self.channels)
        weight, pixels = count * self.class_weights, count.sum()
        everything = torch.full_like(pixels, target.valid.numel())
        paper = everything if self.ignored_is_error else pixels
        times = self.channels
        self.add(
            [*count, *weight],
            [pixels] * times + [weight.sum()] * times,
            len(target.value),
            [paper] * times + [weight.sum()] * times,
        )

    def compute(self) -> dict[str, dict[str, float]]:
        shares = {protocol: list(values.values()) for protocol, values in self.averages().items()}
        pixels = shares["metric"][: self.channels]
        occurring = {"paper": 1, "metric": sum(share > 0 for share in pixels)}
        return {
            protocol: {
                "mIoU": divide(100 * max(pixels), occurring[protocol]),
                "pixel_acc": 100 * max(values[: self.channels]),
                "err": sum(-p * math.log(p) if p else 0.0 for p in values[self.channels :]),
            }
            for protocol, values in shares.items()
        }
