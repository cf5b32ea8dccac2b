"""Top-KAST: sparse in the forward pass, somewhat denser in the update (Jayakumar et al., NeurIPS 2020).

The network computes with the set A, the largest weights. The optimiser trains the larger set B that holds A,
so that weights outside A may grow into it; what is outside B stays as it is. A weight outside A *is* 0 in
the network whenever anybody looks: its value is kept aside, and stands in the parameter only while the
optimiser steps. Exploration is held back by the paper's regulariser, whose factor is the optimiser's weight
decay: |w|^2 in A, |w|^2 / D in B outside A, D the density of A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .attaching import unwrapped
from .budgets import Budget
from .choosing import choose
from .divided import spare
from .gradual import Pace
from .lookup import find_weight
from .masked import Masked
from .masks import Mask, check_same_everywhere, count, size
from .shards import sharded
from .voters import Gather
from .zeroing import zero_pruned


class TopKast(Masked):
    """Masked to A, trained in B; both follow the weights' magnitudes at every event of the pace."""

    moves = True

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: torch.optim.Optimizer,
        pace: Pace,
        forward: Budget,
        backward: Budget,
        gather: Gather | None = None,
        **known: Any,
    ) -> None:
        """mask: the first A; the network still holds the dense weights. forward, backward: budgets of A and
        B, of the same pools. gather: a tensor of every process. known: owners and asked, as of Masked.
        """
        if sharded(model):
            raise ValueError("Top-KAST keeps whole weights aside, so it takes no sharded network")
        for small, large in zip(forward, backward, strict=True):
            if small.names != large.names or small.keep > large.keep:
                raise ValueError(f"the backward set must hold the forward set, in {small.names[0]!r} too")
        values = {name: find_weight(model, name).detach().clone() for name in mask}
        super().__init__(model, mask, **known)
        self.optimizer = unwrapped(optimizer)
        self.pace = pace
        self.budgets = forward, backward
        self.gather = gather
        self._trained = self._largest(values, backward)
        self._aside = {name: value.masked_fill_(self._kept[name], 0.0) for name, value in values.items()}
        self._entered = False  # whether the parameters hold B

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """B."""
        return self._trained

    @torch.no_grad()
    def mask_gradients(self) -> None:
        super().mask_gradients()
        self._enter()

    @torch.no_grad()
    def mask_gradient(self, name: str) -> None:
        gradient = find_weight(self.model, name).grad
        if gradient is not None:
            zero_pruned(gradient, self._trained[name])

    def _enter(self) -> None:
        """Puts the values of B outside A into the parameters, and their regulariser into the gradients."""
        if self._entered:
            return
        self._entered = True
        decay = {id(w): g.get("weight_decay", 0.0) for g in self.optimizer.param_groups for w in g["params"]}
        for name, weight in self.weights.items():
            explored = self._aside[name] * self._trained[name]
            weight.add_(explored)
            if weight.grad is not None:  # the optimiser itself adds decay * w
                weight.grad.add_(explored, alpha=decay.get(id(weight), 0.0) * (1 / self.density - 1))

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Returns {} or density (of A), trained (density of B) and replaced_share (of A)."""
        self.mask_gradients()  # a step without it would have lost B
        weights = self.weights
        values = {
            name: torch.where(self._trained[name], weight, self._aside[name])
            for name, weight in weights.items()
        }
        self.step, figures = step, {}
        if self.pace.due(step):
            figures = self._move(values)
        for name, weight in weights.items():
            self._aside[name] = values[name].masked_fill(self._kept[name], 0.0)
            weight.copy_(values[name].masked_fill_(~self._kept[name], 0.0))
        self._entered = False
        return figures

    def _move(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        before, trained = self.mask, self._trained
        after = self._largest(values, self.budgets[0])
        self._trained = self._largest(values, self.budgets[1])
        check_same_everywhere(after, self.gather)
        self._set_mask(after)
        for name, weight in self.weights.items():  # whoever comes back to B starts with fresh state
            gone = trained[name] & ~self._trained[name]
            for value in self.optimizer.state.get(weight, {}).values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(gone, 0.0)
        new = sum(int((after[name] & ~before[name]).count_nonzero()) for name in after)
        return {
            "density": self.density,
            "trained": count(self._trained) / size(self._trained),
            "replaced_share": new / max(count(after), 1),
        }

    def _largest(self, values: Mapping[str, Tensor], budget: Budget) -> Mask:
        magnitude = {"magnitude": {name: value.abs() for name, value in values.items()}}
        return choose(spare(self.model, magnitude), budget, "unanimous")

    def attach(self, *optimizers: Any) -> TopKast:
        """Raises ValueError for several optimizers: B must be complete in every step."""
        if len(optimizers) != 1:
            raise ValueError(f"Top-KAST goes with one optimizer, not {len(optimizers)}")
        super().attach(*optimizers)
        self.optimizer = unwrapped(optimizers[0])
        assert self._attachment is not None
        hook = self.optimizer.register_step_pre_hook(lambda *step: self.mask_gradients())
        self._attachment._handles.append(hook)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Also B, and the values of all weights outside A."""
        return super().state_dict() | {"trained": self._trained, "aside": self._aside}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in self._kept:
            self._trained[name] = state["trained"][name].to(self._kept[name].device, copy=True)
            self._aside[name] = state["aside"][name].to(self._kept[name].device, copy=True)
