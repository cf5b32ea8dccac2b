"""Depth (or disparity): L1; absolute and relative error, shares of pixels within three ratios."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.names import PROTOCOLS
from tasks.averages import Averages, divide
from tasks.base import Direction, Geometry, Target, Task, at_least_float32, resize_prediction
from tasks.levels import Levels
from tasks.pictures import colour_map, grey_out
from tasks.regression import decode, l1_loss

RATIOS = {"d1.25": 1.25, "d1.25^2": 1.25**2, "d1.25^3": 1.25**3}
STEPS = 64  # levels from one depth to 1.25 times it
REACH = 62  # levels go from 1.25 ** -62 to 1.25 ** 62, from 1e-6 to 1e6
SMALLEST = 1e-6  # a prediction below this is taken as this much in the metric protocol's ratio


def depth(*, geometry: Geometry | None = None, unit: str = "m") -> Task:
    """The task "depth"; targets [N, 1, H, W] in `unit` ("" = without one)."""
    directions = {"abs": Direction(unit, False), "rel": Direction("", False)}
    directions.update({name: Direction("%", True) for name in RATIOS})
    return Task(
        name="depth",
        channels=1,
        loss=l1_loss,
        metric=DepthMetric,
        decode=decode,
        picture=picture,
        directions=directions,
        geometry=geometry or Geometry(),
        constant=BestDepth,
    )


def picture(value: Tensor, valid: Tensor | None = None, like: Target | None = None) -> np.ndarray:
    """Values [1, H, W], small dark to large bright, uint8 RGB [H, W, 3].

    The range is that of the valid pixels of `like` (default: of the value itself) without 2 % at either end.
    """
    source, where = (value, valid) if like is None else like
    source = source.float().flatten()
    known = source[where.flatten()] if where is not None else source
    finite = known[known.isfinite()].cpu().numpy()
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    return grey_out(colour_map(value[0].float().cpu().numpy(), low, high, "viridis"), valid)


class DepthMetric(Averages):
    """abs = |p - g|, rel = |p - g| / g; d1.25, d1.25^2, d1.25^3 = percent with max(p/g, g/p) at most that.

    abs, rel: paper = per batch, weighted by batch size; metric = over pixels. rel only where g > 0.
    The ratios, which the published code pools over the pixels of all batches:
        paper: over all valid pixels, as they are, so that a negative prediction passes;
        metric: over valid pixels with g > 0, the prediction clamped to at least 1e-6, so that it does not.
    A batch without valid pixels adds nothing; without any pixel every value is nan.
    """

    paper_hits: Tensor
    metric_hits: Tensor

    def __init__(self) -> None:
        super().__init__(("abs", "rel"))
        for protocol in PROTOCOLS:
            zeros = torch.zeros(len(RATIOS), dtype=torch.int64)
            self.add_state(f"{protocol}_hits", zeros)

    def update(self, prediction: Tensor, target: Target) -> None:
        """prediction [N, 1, h, w], target [N, 1, H, W]."""
        value, valid = target
        prediction = resize_prediction(at_least_float32(prediction), value.shape[-2:])
        positive = valid & (value > 0)
        error = (prediction - value).abs_()
        sums = [torch.where(valid, error, 0), torch.where(positive, error / value, 0)]
        sums = [total.sum(dtype=torch.float64) for total in sums]
        self.add(sums, [valid.sum(), positive.sum()], len(value))
        self.paper_hits += _hits(prediction, value, valid)
        self.metric_hits += _hits(prediction.clamp(min=SMALLEST), value, positive)

    def compute(self) -> dict[str, dict[str, float]]:
        scores = self.averages()
        pixels, positive = self.pixel_count
        hits = {"paper": (self.paper_hits, pixels), "metric": (self.metric_hits, positive)}
        for protocol, (hit, count) in hits.items():
            shares = [divide(100 * each, count) for each in hit]
            scores[protocol].update(zip(RATIOS, shares, strict=True))
        return scores


def _hits(prediction: Tensor, value: Tensor, counted: Tensor) -> Tensor:
    """How many of the counted pixels are within each ratio, int64 [3]. NaN is in none."""
    ratio = torch.maximum(prediction / value, value / prediction)
    return torch.stack([((ratio <= limit) & counted).sum() for limit in RATIOS.values()])


class BestDepth(Levels):
    """Scores of the best constant depths above 0: 1.25 ** (i / 64), steps of 0.35 %, one for each measure.

    A constant below 0 would pass every ratio of the protocol `paper`; it is no depth. Targets of at most 1e-6
    are within no ratio.
    """

    def __init__(self) -> None:
        powers = torch.arange(-REACH * STEPS, REACH * STEPS + 1, dtype=torch.float64) / STEPS
        super().__init__(1.25**powers, ("abs", "rel"))

    def update(self, target: Target) -> None:
        """target [N, 1, H, W]."""
        value = target.value[target.valid].double()
        relative = torch.where(value > 0, 1 / value.clamp(min=torch.finfo(value.dtype).tiny), 0)
        self.add(value, [torch.ones_like(value), relative], len(target.value))

    def compute(self) -> dict[str, dict[str, float]]:
        scores = self.best()
        pixels = self.metric_sums[0, 0]
        pixels = torch.cat([torch.zeros_like(pixels[:1]), pixels[1:-1]]).cumsum(0)  # [K], up to each level
        for protocol, count in zip(PROTOCOLS, self.metric_count, strict=True):  # all, or those above 0
            for power, name in enumerate(RATIOS, 1):
                place = torch.arange(len(pixels), device=pixels.device)
                high = pixels[(place + power * STEPS).clamp(max=len(pixels) - 1)]
                low = pixels[(place - power * STEPS).clamp(min=0)]
                scores[protocol][name] = divide(100 * (high - low).max(), count)
        return scores
