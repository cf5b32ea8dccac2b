"""Rounds: reach a budget in several steps of equal proportion instead of one.

`progressive` scores the surviving network again before every step (iterative SNIP, or FORCE where pruned
weights may return; de Jorge et al., ICLR 2021); `Rounds` trains between the steps (iterative magnitude
pruning, Han et al., 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .arbiters import Arbiter
from .budgets import Budget, Pool
from .divided import spare
from .filling import Refill
from .floors import NO_FLOORS, Floors, choose_above, lifted
from .granularity import WEIGHTS, Grain
from .masked import Masked
from .masks import Mask, Scores, apply, check_same_everywhere, count, dense_mask, size
from .parameters import find_parameters
from .shards import whole
from .voters import Gather


def geometric_keeps(total: int, keep: int, rounds: int) -> tuple[int, ...]:
    """Kept weights after each of the rounds: total * (keep / total) ** (r / rounds), the last exactly `keep`.

    Raises ValueError unless rounds >= 1.

    >>> geometric_keeps(1000, 1, 3)
    (100, 10, 1)
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds {rounds!r} is not a whole number of at least 1")
    steps = (round(total * (keep / total) ** (r / rounds)) if total else 0 for r in range(1, rounds))
    return (*steps, keep)


def nest(budgets: Sequence[Budget]) -> tuple[Budget, ...]:
    """The budgets with no pool that grows from one to the next, the last as it is.

    Shares rounded by largest remainder may grow by a weight where the sum shrinks; the earlier pool then
    keeps that weight as well.
    """
    nested = list(budgets)
    for place in reversed(range(len(nested) - 1)):
        pairs = zip(nested[place], nested[place + 1], strict=True)
        nested[place] = tuple(Pool(pool.names, max(pool.keep, later.keep)) for pool, later in pairs)
    return tuple(nested)


def nest_above(budgets: Sequence[Budget], floors: Sequence[Floors]) -> tuple[Budget, ...]:
    """Nested budgets with their floors (of each budget) in them: none of their pools grows from one to the
    next, unless the whole does. Who pays for floors may change on the way down; a layer that has paid is not
    to be given back later what it no longer has.

    Raises ValueError where floors ask for more than a budget keeps.
    """
    found = [lifted(budget, least) for budget, least in zip(budgets, floors, strict=True)]
    keeps = [sum(pool.keep for pool in budget) for budget in found]
    for place in reversed(range(len(found) - 1)):
        if keeps[place] >= keeps[place + 1]:
            found[place] = nest(found[place : place + 2])[0]
    return tuple(found)


def progressive(
    model: nn.Module,
    score_network: Callable[[nn.Module], Mapping[str, Scores]],
    budgets: Sequence[Budget],
    arbiter: str | Arbiter,
    floors: Sequence[Floors] = (),
    revive: bool = False,
    start: Mask | None = None,
    grain: Grain = WEIGHTS,
    refill: Refill | None = None,
) -> Mask:
    """The mask of the last budget: each budget chooses among the survivors of the one before.

    floors: of every budget, () = none (floors.py). start: the survivors at the beginning, None = everything.
    grain: what is kept or pruned together. refill: what scores do to each budget, None = nothing.

    score_network(model) sees the network with its pruned weights at 0; the model is restored afterwards.
    revive: each budget chooses among all weights; the scores should be those of the weights before pruning.
    """
    everything = mask = start or dense_mask(model, [name for pool in budgets[0] for name in pool.names])
    for budget, least in zip(budgets, floors or [NO_FLOORS] * len(budgets), strict=True):
        with pruned(model, mask):
            scores = score_network(model)
        among = everything if revive else mask
        if refill is not None:
            budget = refill(budget, scores, among)
        mask = choose_above(spare(model, scores, among, grain), budget, arbiter, least, among, grain)
    return mask


@contextmanager
def pruned(model: nn.Module, mask: Mask) -> Iterator[None]:
    """The model with its pruned weights at 0, inside; its own weights afterwards."""
    if count(mask) == size(mask):
        yield
        return
    weights = find_parameters(model, mask)
    before = {name: weights[name].detach().clone() for name in mask}
    try:
        apply(model, mask)
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                weights[name].copy_(value)


class Rounds(Masked):
    """Masked, and every `every` steps pruned among the survivors to the next of the budgets."""

    moves = True
    parts: tuple[str, ...] = ("mask", "done")

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        budgets: Sequence[Budget],
        every: int,
        gather: Gather | None = None,
        *,
        score: Callable[[nn.Module], Mapping[str, Scores]] | None = None,
        arbiter: str | Arbiter = "unanimous",
        floors: Sequence[Floors] = (),
        grain: Grain = WEIGHTS,
        **known: Any,
    ) -> None:
        """gather: a tensor of every process, None = as torch.distributed says. score: the scores of the
        network as it is, by voter and weight; None = |w|, by one voter. floors: of every budget, () = none.
        grain: what is kept or pruned together. known: owners and asked, as of Masked."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"round iterations {every!r} is not a whole number of at least 1")
        super().__init__(model, mask, **known)
        self.score = score or self._magnitude
        self.arbiter, self.grain = arbiter, grain
        self.budgets = tuple(budgets)
        self.floors = tuple(floors) or (NO_FLOORS,) * len(self.budgets)
        self.every = every
        self.gather = gather
        self.done = 0

    @property
    def ready(self) -> bool:
        """Whether all rounds are done."""
        return self.done >= len(self.budgets)

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Returns {} or density and round (1-based)."""
        super().after_step(step, batch)
        if step <= 0 or step % self.every or self.done >= len(self.budgets):
            return {}
        budget, floors = self.budgets[self.done], self.floors[self.done]
        with torch.enable_grad():
            scores = spare(self.model, self.score(self.model), self.mask, self.grain)
        mask = choose_above(scores, budget, self.arbiter, floors, self.mask, self.grain)
        check_same_everywhere(mask, self.gather)
        self._set_mask(mask)
        self.zero_pruned()
        self.done += 1
        return {"density": count(mask) / size(mask), "round": float(self.done)}

    def _magnitude(self, model: nn.Module) -> dict[str, Scores]:
        return {"magnitude": {name: whole(weight).abs() for name, weight in self.weights.items()}}

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.done = int(state["done"])
