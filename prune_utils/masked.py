"""Masked: holds a network to a fixed mask while it trains.

A pruned weight is 0 in the parameter, its gradient is masked after backward, and the weight is zeroed again
after the optimiser's step, because weight decay and momentum would revive it. No hooks, no second copy of the
weights: one byte of bookkeeping (a bool) per weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .masks import Mask, apply, check_mask, count, prunable, size


class Masked:
    """Keeps pruned weights at 0. Call `mask_gradients` before and `after_step` after every optimiser step."""

    def __init__(self, model: nn.Module, mask: Mask):
        """Zeroes the pruned weights. Raises ValueError, naming the layer, when the mask does not fit."""
        check_mask(model, mask)
        self.model = model
        weights = prunable(model)
        self.weights: dict[str, nn.Parameter] = {name: weights[name] for name in mask}
        self._kept: Mask = {name: kept.to(weights[name].device, copy=True) for name, kept in mask.items()}
        apply(model, mask)

    @property
    def mask(self) -> Mask:
        """What is kept now (a copy)."""
        return {name: kept.clone() for name, kept in self._kept.items()}

    @property
    def density(self) -> float:
        """Kept weights / weights that the mask covers."""
        return count(self._kept) / size(self._kept)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        for name, weight in self.weights.items():
            if weight.grad is not None:
                _multiply(weight.grad, self._kept[name])

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """step: finished steps, 1-based. Returns figures to log."""
        self._zero_pruned()
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"mask": self.mask}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the mask and zeroes what it prunes. Raises ValueError when it does not fit."""
        check_mask(self.model, state["mask"])
        missing = sorted(set(self._kept) ^ set(state["mask"]))
        if missing:
            raise ValueError(f"saved mask and network differ in layer {missing[0]!r}")
        self._set_mask(state["mask"])
        self._zero_pruned()

    def _set_mask(self, mask: Mapping[str, Tensor]) -> None:
        for name, kept in mask.items():
            self._kept[name].copy_(kept)

    def _zero_pruned(self) -> None:
        for name, weight in self.weights.items():
            _multiply(weight, self._kept[name])


def _multiply(values: Tensor, kept: Tensor) -> None:
    """values * kept, in place."""
    values.mul_(kept.view(torch.int8))  # the same bytes read as numbers, which multiply faster than a bool
