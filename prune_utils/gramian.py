"""What the tasks' gradients have to do with each other: their inner products, and who works against whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


def gramian(
    gradients: Sequence[Mapping[str, Tensor]],
    names: Iterable[str],
    kept: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Inner products [tasks, tasks] of the tasks' gradients over these weights; float64, in main memory.

    gradients: of each task, by weight; what it lacks is 0. kept: weight -> bool, only these elements count;
    a weight that it does not name counts whole.
    """
    total = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for name in names:
        there = [place for place, of in enumerate(gradients) if name in of]
        if there:
            rows = torch.stack([gradients[place][name].reshape(-1) for place in there]).double()
            if kept is not None and name in kept:
                rows = rows * kept[name].reshape(-1)
            places = torch.tensor(there)
            total[places[:, None], places] += (rows @ rows.T).cpu()
    return total


def cosines(gram: Tensor) -> Tensor:
    """Cosines [tasks, tasks] of the angles between gradients, from their inner products; 0 beside a zero."""
    length = gram.diagonal().clamp(min=0).sqrt()
    return torch.where((length[:, None] > 0) & (length > 0), gram / (length[:, None] * length), 0.0)
