"""Masked: holds a network to a fixed mask while it trains.

A pruned weight is 0 in the parameter, its gradient is masked after backward, and the weight is zeroed again
after the optimiser's step, because weight decay and momentum would revive it. No hooks, no second copy of the
weights: one bit of bookkeeping (a bool) per weight.
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
        # stored inverted: what has to be filled with 0
        self._pruned: Mask = {name: ~kept.to(weights[name].device) for name, kept in mask.items()}
        apply(model, mask)

    @property
    def mask(self) -> Mask:
        """What is kept now (a copy)."""
        return {name: ~pruned for name, pruned in self._pruned.items()}

    @property
    def density(self) -> float:
        """Kept weights / weights that the mask covers."""
        return 1 - count(self._pruned) / size(self._pruned)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        for name, weight in self.weights.items():
            if weight.grad is not None:
                weight.grad.masked_fill_(self._pruned[name], 0.0)

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
        missing = sorted(set(self._pruned) ^ set(state["mask"]))
        if missing:
            raise ValueError(f"saved mask and network differ in layer {missing[0]!r}")
        self._set_mask(state["mask"])
        self._zero_pruned()

    def _set_mask(self, mask: Mapping[str, Tensor]) -> None:
        for name, kept in mask.items():
            torch.logical_not(kept.to(self._pruned[name].device), out=self._pruned[name])

    def _zero_pruned(self) -> None:
        for name, weight in self.weights.items():
            weight.masked_fill_(self._pruned[name], 0.0)
