"""Regrowth with a constant fan-in: every neuron that has inputs has as many as the others of its layer.

SRigL (Lasby et al., "Dynamic Sparse Training with Structured Sparsity", ICLR 2024, section 3). A weight of a
layer is salient if it would stay or would grow were weights free to move; a neuron with fewer salient weights
than a share of the fan-in is ablated: it loses all its weights, and the layer's budget goes to the neurons
that are left. An ablated neuron whose weights are wanted enough at a later update comes back. Left out:
sparse initialisation of what grows (it starts at 0, as everywhere here).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .budgets import Pool
from .choosing import choose, standings
from .divided import divided
from .granularity import FanIn, Grain
from .masks import Mask, Scores
from .regrow import Regrowth


class FanInRegrowth(Regrowth):
    """Regrowth whose layers keep floor(budget / neurons that are left) inputs of each of these neurons.

    A layer's budget is the count of its first mask. What is left over is less than one weight for each of the
    neurons that are left.
    """

    def __init__(self, *args: Any, **known: Any) -> None:
        """Arguments and errors are those of Regrowth; growth.grain is of granularity fanin."""
        super().__init__(*args, **known)
        self._budget = {name: int(kept.count_nonzero()) for name, kept in self._whole().items()}
        self._never = frozenset(divided(self.model))  # a norm of no weights is 0, and divides

    @property
    def ablated(self) -> int:
        """Neurons without any input, of layers that keep something."""
        rows = [kept.flatten(1).any(1) for kept in self._whole().values()]
        return sum(int((~row).count_nonzero()) for row in rows if bool(row.any()))

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Returns what Regrowth does, and beside it the number of ablated neurons."""
        figures = super().after_step(step, batch)
        return figures and figures | {"ablated": float(self.ablated)}

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        inputs = kept.flatten(1).sum(1)
        left = int(inputs.count_nonzero())
        budget = int(first.count_nonzero())
        return not budget or (left > 0 and bool((inputs[inputs > 0] == budget // left).all()))

    def _exchange(
        self,
        active: Mask,
        drops: Mapping[str, int],
        needs: Mapping[str, Scores],
        votes: Mapping[str, Scores],
    ) -> tuple[Mask, Mask]:
        kept, after = {}, {}
        for name in active:
            needed, wanted = (
                {voter: {name: of[name]} for voter, of in scores.items() if name in of}
                for scores in (needs, votes)
            )
            kept[name], after[name] = self._exchange_layer(name, active[name], drops[name], needed, wanted)
        return kept, after

    def _exchange_layer(
        self,
        name: str,
        active: Tensor,
        drop: int,
        needs: Mapping[str, Scores],
        votes: Mapping[str, Scores],
    ) -> tuple[Tensor, Tensor]:
        """What stays of the active weights [neurons, ...], and the next mask."""
        arbiter, growing, grain = self.growth.arbiter, self.grow_arbiter, Grain(FanIn())
        stay = int(active.count_nonzero()) - drop
        strong = choose(needs, (Pool((name,), stay),), arbiter, {name: active})[name]
        wanted = choose(votes, (Pool((name,), drop),), growing, {name: ~active})[name]
        left = self._left(name, active, (strong | wanted).flatten(1).sum(1))
        each = self._budget[name] // int(left.count_nonzero())
        theirs = active & left.reshape(-1, *[1] * (active.dim() - 1))
        stay = min(stay, int(theirs.count_nonzero()))
        kept = choose(needs, (Pool((name,), stay),), arbiter, {name: theirs})[name]
        # no more than the new fan-in, which is below the old one where a neuron came back
        kept &= grain.best_of_parts(standings(needs, arbiter, {name: kept})[name], each)
        wish = standings(votes, growing, {name: ~kept})[name].masked_fill(kept, -torch.inf)
        after = grain.best_of_parts(wish, each) & left.reshape(-1, *[1] * (active.dim() - 1))
        return kept, after

    def _left(self, name: str, active: Tensor, salient: Tensor) -> Tensor:
        """The neurons that have inputs from now on (bool): the salient ones, but enough of the best to hold
        the budget and no more than it has weights."""
        if name in self._never or not self.growth.salient:
            return torch.ones_like(salient, dtype=torch.bool)
        neurons = int(active.flatten(1).any(1).count_nonzero())
        left = salient >= self.growth.salient * int(active.count_nonzero()) / neurons
        best, budget = salient.argsort(descending=True, stable=True), self._budget[name]
        left[best[: -(-budget // active[0].numel())]] = True
        left[best[budget:]] = False
        return left
