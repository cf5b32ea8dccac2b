"""Averages of per-pixel quantities in both protocols, in constant memory: the base of every task's metric.

paper: the mean of each batch, averaged over batches with their sizes as weights, as in the published code.
metric: the mean over all pixels. States are sums, so processes and runs merge by addition.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.metric import Metric


def divide(numerator: Tensor | float, denominator: Tensor | float) -> float:
    """The quotient of two numbers, nan where there is nothing to divide by."""
    return float(numerator) / float(denominator) if denominator else float("nan")


class Averages(Metric):
    """Averages of the quantities `names`; a quantity that saw no pixel is nan.

    A subclass calls `add` in update(prediction, target); `averages` gives {"paper": {...}, "metric": {...}}.
    Sums are float64: an epoch adds up more pixels than float32 can count.
    """

    batch_sum: Tensor
    batch_weight: Tensor
    pixel_sum: Tensor
    pixel_count: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        for state in ("batch_sum", "batch_weight", "pixel_sum", "pixel_count"):
            zeros = torch.zeros(len(self.names), dtype=torch.float64)
            self.add_state(state, zeros)

    def add(
        self,
        sums: Sequence[Tensor],
        counts: Sequence[Tensor],
        images: int,
        paper_counts: Sequence[Tensor] | None = None,
    ) -> None:
        """Adds one batch: for each name the sum over its pixels and their number (or their total weight).

        paper_counts: what the paper's average divides by, where that differs. A batch in which a count is 0
        stays out of the paper's average of that quantity.
        """
        total = torch.stack([value.double() for value in sums])
        count = torch.stack([value.double() for value in counts])
        self.pixel_sum += total
        self.pixel_count += count
        divisor = count if paper_counts is None else torch.stack([value.double() for value in paper_counts])
        seen = count > 0
        self.batch_sum += torch.where(seen, images * total / torch.where(seen, divisor, 1), 0)
        self.batch_weight += images * seen

    def counts(self) -> dict[str, int]:
        """Whole numbers that a reader of the scores should see beside them; name -> number."""
        return {}

    def averages(self) -> dict[str, dict[str, float]]:
        """{"paper": {name: mean}, "metric": {name: mean}}."""
        return {
            "paper": dict(zip(self.names, map(divide, self.batch_sum, self.batch_weight), strict=True)),
            "metric": dict(zip(self.names, map(divide, self.pixel_sum, self.pixel_count), strict=True)),
        }
