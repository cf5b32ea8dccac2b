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

from .budgets import Budget
from .choosing import choose
from .divided import spare
from .gradual import Pace
from .lookup import find_weight
from .masks import Mask, Scores, count, size
from .regrow import Growth, Regrowth
from .shards import sharded
from .voters import Gather
from .zeroing import zero_pruned


class TopKast(Regrowth):
    """Masked to A, trained in B; both follow the weights' magnitudes at every event of the pace."""

    _entered: bool  # whether the parameters hold B

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: torch.optim.Optimizer | None,
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
        super().__init__(model, mask, optimizer, pace, Growth((), gather=gather), **known)
        self.budgets = forward, backward
        self._trained = self._largest(values, backward)
        self._values = values  # of all weights while a step is taken, of those outside A between steps
        self._part()

    @property
    def trained(self) -> Mapping[str, Tensor]:
        """B."""
        return self._trained

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Also puts the values of B outside A into the parameters, and their regulariser into gradients."""
        super().mask_gradients()
        if self._entered:
            return
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        decay = {id(weight): g.get("weight_decay", 0.0) for g in groups for weight in g["params"]}
        for name, weight in self.weights.items():
            explored = self._values[name] * self._trained[name]
            weight.add_(explored)
            if weight.grad is not None:  # the optimiser itself adds decay * w
                weight.grad.add_(explored, alpha=decay.get(id(weight), 0.0) * (1 / self.density - 1))
        self._entered = True

    @torch.no_grad()
    def mask_gradient(self, name: str) -> None:
        gradient = find_weight(self.model, name).grad
        if gradient is not None:
            zero_pruned(gradient, self._trained[name])

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Returns {} or density (of A), trained (density of B) and replaced_share (of A)."""
        self.mask_gradients()  # a step without it would have lost B
        for name, weight in self.weights.items():
            self._values[name] = torch.where(self._trained[name], weight, self._values[name])
        figures = super().after_step(step, batch)
        self._part()
        trained = count(self._trained) / size(self._trained)
        told = {"density": self.density, "trained": trained}
        return told | {"replaced_share": figures["replaced_share"]} if figures else {}

    def _part(self) -> None:
        """The weights of A into the parameters, the others aside."""
        for name, weight in self.weights.items():
            with torch.no_grad():
                weight.copy_(self._values[name].masked_fill(~self._kept[name], 0.0))
            self._values[name].masked_fill_(self._kept[name], 0.0)
        self._entered = False

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return True

    def _move(self, mask: Mask, fraction: float, step: int, batch: Any) -> tuple[int, Mask]:
        before, self._trained = self._trained, self._largest(self._values, self.budgets[1])
        for name, weight in self.weights.items():  # whoever comes back to B starts with fresh state
            self._forget(weight, before[name] & ~self._trained[name])
        return 0, self._largest(self._values, self.budgets[0])

    def _largest(self, values: Scores, budget: Budget) -> Mask:
        magnitude = {"magnitude": {name: value.abs() for name, value in values.items()}}
        return choose(spare(self.model, magnitude), budget, "unanimous")

    def attach(self, *optimizers: Any) -> TopKast:
        """Raises ValueError for several optimizers: B must be complete in every step."""
        if len(optimizers) != 1:
            raise ValueError(f"Top-KAST goes with one optimizer, not {len(optimizers)}")
        super().attach(*optimizers)
        assert self._attachment is not None
        hook = self.optimizer.register_step_pre_hook(lambda *step: self.mask_gradients())
        self._attachment._handles.append(hook)
        return self

    def state_dict(self) -> dict[str, Any]:
        """Also B, and the values of all weights outside A."""
        return super().state_dict() | {"trained": self._trained, "aside": self._values}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for own, name in ((self._trained, "trained"), (self._values, "aside")):
            own |= {layer: state[name][layer].to(kept.device, copy=True) for layer, kept in own.items()}
