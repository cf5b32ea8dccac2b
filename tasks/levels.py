"""The best constant answer to a task of one value a pixel: targets are counted in the bins of a grid.

Every level of the grid is scored exactly from a few sums a bin, so that no target has to be kept or read
again; the best level is at most one step of the grid from the best constant of all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.names import PROTOCOLS
from tasks.metric import Metric


class Levels(Metric):
    """Mean of weight(g) |level - g| over the targets g, for every level and each of `names`, both protocols.

    levels: float64 [K], ascending. Bin i holds levels[i - 1] < g <= levels[i]; the first and last are open.
    A subclass calls `add` in update(target); `best` gives the smallest mean over the levels.
    """

    levels: Tensor
    paper_sums: Tensor  # [names, 2, K + 1]: of the weights and of weight times target
    metric_sums: Tensor
    paper_count: Tensor
    metric_count: Tensor

    def __init__(self, levels: Tensor, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.register_buffer("levels", levels.double(), persistent=False)
        sums = torch.zeros(len(self.names), 2, len(levels) + 1, dtype=torch.float64)
        for protocol in PROTOCOLS:
            self.add_state(f"{protocol}_sums", sums.clone())
            count = torch.zeros(len(self.names), dtype=torch.float64)
            self.add_state(f"{protocol}_count", count)

    def add(self, value: Tensor, weights: Sequence[Tensor], images: int) -> None:
        """The valid targets [P] of one batch and their weights [P] for each name; 0 = not counted."""
        value, device = value.double(), value.device
        bins = torch.bucketize(value, self.levels)
        rows = torch.stack([row for weight in weights for row in (weight.double(), weight.double() * value)])
        sums = torch.zeros(len(rows), len(self.levels) + 1, dtype=torch.float64, device=device)
        sums = sums.index_add_(1, bins, rows).view_as(self.metric_sums)
        count = torch.stack([(weight != 0).sum() for weight in weights]).double()
        self.metric_sums += sums
        self.metric_count += count
        self.paper_sums += images * sums / count.clamp(min=1)[:, None, None]
        self.paper_count += images * (count > 0)

    def best(self) -> dict[str, dict[str, float]]:
        """{"paper": {name: smallest mean}, "metric": {...}}; nan where nothing was counted."""
        return {
            protocol: dict(zip(self.names, self._smallest(protocol), strict=True)) for protocol in PROTOCOLS
        }

    def _smallest(self, protocol: str) -> list[float]:
        sums, count = getattr(self, f"{protocol}_sums"), getattr(self, f"{protocol}_count")
        (weight, moment), every = sums.unbind(1), sums.sum(2)
        below, below_moment = weight.cumsum(1)[:, :-1], moment.cumsum(1)[:, :-1]
        above, above_moment = every[:, :1] - below, every[:, 1:] - below_moment
        errors = self.levels * below - below_moment + above_moment - self.levels * above
        return (errors.amin(1).clamp(min=0) / count).tolist()  # 0 / 0 is nan
