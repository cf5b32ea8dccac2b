"""Top-KAST: sparse in the forward pass, somewhat denser in the update (Jayakumar et al., NeurIPS 2020).

The network computes with the set A, the largest weights. The optimiser trains the larger set B that holds A,
so that weights outside A may grow into it; what is outside B stays as it is. A weight outside A *is* 0 in
the network whenever anybody looks, the closure of a step too: its value is kept aside, and stands in the
parameter only while the optimiser steps. Exploration is held back by the paper's regulariser, whose factor is
the optimiser's weight decay: |w|^2 in A, |w|^2 / D in B outside A, D the density of A.
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

    parts = (*Regrowth.parts, "trained", "aside")
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
        """mask: the first A, by whatever rule; the network still holds the dense weights. forward, backward:
        budgets of A and B, of the same pools. gather: as of Growth. known: owners and asked, as of Masked.
        """
        if sharded(model):
            raise ValueError("Top-KAST keeps whole weights aside, so it takes no sharded network")
        for small, large in zip(forward, backward, strict=True):
            if small.names != large.names or small.keep > large.keep:
                raise ValueError(f"the backward set must hold the forward set, in {small.names[0]!r} too")
        values = {name: find_weight(model, name).detach().clone() for name in mask}
        super().__init__(model, mask, optimizer, pace, Growth((), gather=gather), **known)
        self.budgets = forward, backward
        self._trained = self._around(mask, values, backward)
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
        density = self.density if any(decay.values()) else 1.0
        for name, weight in self._followed().items():
            explored = self._values[name] * self._trained[name]
            weight.add_(explored)
            if weight.grad is not None:  # the optimiser itself adds decay * w
                weight.grad.add_(explored, alpha=decay.get(id(weight), 0.0) * (1 / density - 1))
        self._entered = True

    @torch.no_grad()
    def mask_gradient(self, name: str) -> None:
        gradient = find_weight(self.model, name).grad
        if gradient is not None:
            self._trained[name] = self._trained[name].to(gradient.device)
            zero_pruned(gradient, self._trained[name])

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Returns {} or density (of A), trained (density of B) and replaced_share (of A)."""
        self.mask_gradients()  # a step without it would have lost B
        self._take()
        figures = super().after_step(step, batch)
        self._part()
        if not figures:
            return {}
        trained = count(self._trained) / size(self._trained)
        return {
            "density": self.density,
            "trained": trained,
            "replaced_share": figures["replaced_share"],
        }

    def _followed(self) -> dict[str, nn.Parameter]:
        """The weights, by name; B and the values aside are where they are."""
        weights = self.weights
        for name, weight in weights.items():
            self._trained[name] = self._trained[name].to(weight.device)
            self._values[name] = self._values[name].to(weight.device)
        return weights

    def _take(self) -> None:
        """All values are known aside: those of B are what the parameters hold."""
        for name, weight in self._followed().items():
            self._values[name] = torch.where(self._trained[name], weight, self._values[name])

    @torch.no_grad()
    def _part(self) -> None:
        """The weights of A into the parameters, the others aside."""
        for name, weight in self._followed().items():
            kept = self._kept_of(name, weight)
            weight.copy_(self._values[name].masked_fill(~kept, 0.0))
            self._values[name].masked_fill_(kept, 0.0)
        self._entered = False

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return True

    def _move(self, mask: Mask, fraction: float, step: int, batch: Any) -> tuple[int, Mask]:
        before, self._trained = self._trained, self._largest(self._values, self.budgets[1])
        for name, weight in self.weights.items():  # whoever comes back to B starts with fresh state
            self._forget(weight, before[name] & ~self._trained[name])
        return 0, self._largest(self._values, self.budgets[0])

    def _around(self, mask: Mask, values: Scores, budget: Budget) -> Mask:
        """The first B: all of A, and the largest of the others."""
        above = 1 + max((float(value.abs().max()) for value in values.values() if value.numel()), default=0.0)
        first = {n: value.masked_fill(mask[n].to(value.device), above) for n, value in values.items()}
        trained = self._largest(first, budget)
        for name, kept in mask.items():
            outside = int((kept & ~trained[name].to(kept.device)).count_nonzero())
            if outside:
                raise ValueError(
                    f"the first mask keeps {outside} weights of {name!r} more than the backward set holds"
                )
        return trained

    def _largest(self, values: Scores, budget: Budget) -> Mask:
        magnitude = {"magnitude": {name: value.abs() for name, value in values.items()}}
        return choose(spare(self.model, magnitude), budget, "unanimous")

    def attach(self, *optimizers: Any) -> TopKast:
        """Raises ValueError for several optimizers: B must be complete in every step."""
        if len(optimizers) != 1:
            raise ValueError(f"Top-KAST goes with one optimizer, not {len(optimizers)}")
        super().attach(*optimizers)
        assert self._attachment is not None
        hook = self.optimizer.register_step_pre_hook(self._before_step)
        self._attachment._handles.append(hook)
        return self

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """B goes into the parameters: at once, or after every call of the step's closure, which computes with
        A. Returns the step's arguments, None = as they are."""
        closure = named.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.mask_gradients()
            return None

        def with_a() -> Any:
            if self._entered:
                with torch.no_grad():
                    self._take()
                self._part()
            loss = closure()
            self.mask_gradients()
            return loss

        return args[:1], named | {"closure": with_a}

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        for part in ("trained", "aside"):
            missing = sorted(set(self._kept) ^ set(state[part]))
            if missing:
                raise ValueError(
                    f"{part!r} of the saved state and the network differ in layer {missing[0]!r}"
                )

    def state_dict(self) -> dict[str, Any]:
        """Also B, and the values of all weights outside A."""
        parts = {"trained": self._trained, "aside": self._values}
        return super().state_dict() | {
            part: {name: values.clone() for name, values in of.items()} for part, of in parts.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for own, name in ((self._trained, "trained"), (self._values, "aside")):
            own |= {layer: state[name][layer].to(kept.device, copy=True) for layer, kept in own.items()}
