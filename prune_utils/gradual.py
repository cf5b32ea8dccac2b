"""Gradual: a network that becomes sparse while it trains, exact at every event and at the end.

An event prunes to a budget: of the weights that are left, the best ranked stay. How much is left when is the
pace's choice: `cubic` (Zhu and Gupta, "To prune, or not to prune", 2017) or `alternating` dense and sparse
phases (AC/DC, Peste et al., NeurIPS 2021). With growth, every event also drops a little more in each layer
and regrows as many (GraNet, Liu et al., NeurIPS 2021). Who ranks is the method's choice: one magnitude for
all, or every task for itself. Left out: learning rates that follow the phases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .budgets import Budget
from .criteria import find_criterion
from .divided import spare
from .filling import Refill
from .floors import NO_FLOORS, Floors, choose_above
from .masks import Mask
from .regrow import Growth, Regrowth
from .rounds import nest


@dataclass(frozen=True)
class Pace:
    """When a network is pruned while it trains: after steps start, start + every, ... and after step end.

    fraction: share of a layer's weights that the first event drops and regrows beside; None = half
        where weights regrow, else none.
    """

    start: int
    end: int
    every: int
    fraction: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.start <= self.end and self.end >= 1 and self.every >= 1):
            raise ValueError(
                f"gradual pruning needs 0 <= start <= end, end >= 1 and every >= 1, not start {self.start}, "
                f"end {self.end} and every {self.every}"
            )
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise ValueError(f"gradual fraction {self.fraction!r} is not between 0 and 1")

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps after which something happens; never before training has begun."""
        return (*(step for step in range(self.start, self.end, self.every) if step > 0), self.end)

    def due(self, step: int) -> bool:
        """Whether something happens after this step, 1-based."""
        between = self.start <= step < self.end and (step - self.start) % self.every == 0
        return step > 0 and (between or step == self.end)

    def done(self, step: int) -> float:
        """0 at start, 1 at end."""
        return (step - self.start) / (self.end - self.start) if self.start < self.end else 1.0

    def drop_fraction(self, step: int) -> float:
        """Cosine from `fraction` at start to 0 at end."""
        return (self.fraction or 0.0) / 2 * (1 + math.cos(math.pi * self.done(step)))

    def settled(self, regrows: bool) -> Pace:
        """The same pace, its fraction a number."""
        return self if self.fraction is not None else replace(self, fraction=0.5 if regrows else 0.0)


def make_pace(start: float, end: float, every: float, fraction: float, iterations: int) -> Pace:
    """start, end and every in steps, or below 1 as fractions of `iterations`.

    Raises ValueError for a pace that ends after the run.
    """
    steps = [round(value * iterations) if value < 1 else round(value) for value in (start, end, every)]
    pace = Pace(steps[0], max(steps[1], 1), max(steps[2], 1), fraction)
    if pace.end > iterations:
        raise ValueError(f"gradual pruning ends after step {pace.end}, but the run has {iterations} steps")
    return pace


def cubic(pace: Pace) -> dict[int, float]:
    """Step -> share of what is to be pruned that is still there: (1 - (t - start) / (end - start)) ** 3."""
    return {step: (1 - pace.done(step)) ** 3 for step in pace.steps}


def alternating(pace: Pace) -> dict[int, float]:
    """Step -> 0 (a sparse phase begins) and 1 (a dense one) in turn from start; sparse from end on."""
    return {step: 0.0 if step == pace.end else float(n % 2) for n, step in enumerate(pace.steps)}


PACES: dict[str, Callable[[Pace], dict[int, float]]] = {"cubic": cubic, "alternating": alternating}


def gradual_budgets(
    remaining: Mapping[int, float], total: int, keep: int, budget: Callable[[int], Budget]
) -> dict[int, Budget]:
    """Step -> budget of keep + remaining * (total - keep) weights; the last keeps exactly `keep`.

    budget(n): a budget of n weights. No pool grows from one event to the next unless the whole does.
    """
    keeps = {step: keep + round(share * (total - keep)) for step, share in remaining.items()}
    budgets = {step: budget(some) for step, some in keeps.items()}
    steps = list(budgets)
    for step, later in zip(steps[-2::-1], steps[:0:-1], strict=True):
        if keeps[step] >= keeps[later]:
            budgets[step] = nest([budgets[step], budgets[later]])[0]
    return budgets


class Gradual(Regrowth):
    """Masked, pruned at every event of a pace and, with growth, moved within its layers beside."""

    parts = (*Regrowth.parts, "reopened", "twin")

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: Any,
        pace: Pace,
        events: Mapping[int, Budget],
        ranking: Growth,
        growth: Growth | None = None,
        floors: Mapping[int, Floors] | None = None,
        refill: Refill | None = None,
        **known: Any,
    ) -> None:
        """mask: what is there at the start, mostly everything. events: step -> budget, for each step of pace.

        ranking: who ranks the weights that are left, and by what, on the batch of the step. An event that
            keeps more than the one before begins a dense phase: everything is back, from 0, and the
            optimiser's state of all these weights is fresh.
        growth: who wants what back; None = nobody. floors: step -> least weights of layers, None = none.
        refill: what the votes of an event do to its budget, None = nothing.
        known: batches, owners and asked, as of Regrowth.
        """
        pace = pace.settled(regrows=growth is not None)
        super().__init__(model, mask, optimizer, pace, growth or ranking, **known)
        if set(events) != set(pace.steps):
            raise ValueError(f"there are budgets for steps {list(events)}, the pace prunes at {pace.steps}")
        self.events = dict(events)
        keeps = {step: sum(pool.keep for pool in self.events[step]) for step in pace.steps}
        self.dense_from = frozenset(step for last, step in pairwise(keeps) if keeps[step] > keeps[last])
        self.floors = dict(floors or {})
        self.refill = refill
        self.ranking = ranking
        self.regrows = growth is not None and bool(pace.fraction)
        self.reads_batches = self.regrows or find_criterion(ranking.criterion).needs_gradient
        self.reopened = False  # in a dense phase
        self.twin: dict[str, Tensor] | None = None  # the whole network at the end of the last dense phase

    @property
    def ready(self) -> bool:
        """Whether the last event is over, and the budget met for good."""
        return self.step >= max(self.events)

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return True

    def _move(self, mask: Mask, fraction: float, step: int, batch: Any) -> tuple[int, Mask]:
        if step in self.dense_from:
            return 0, self._dense_phase(mask)
        budget = self.events[step]
        if self.reopened:
            self.reopened = False
            self.twin = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        batch = self._batch(batch) if self.reads_batches else batch
        scores = self._needs(step, batch, mask, self.ranking)
        if self.refill is not None:
            budget = self.refill(budget, scores, mask)
        grain, floors = self.ranking.grain, self.floors.get(step, NO_FLOORS)
        spared = spare(self.model, scores, mask, grain)
        mask = choose_above(spared, budget, self.ranking.arbiter, floors, mask, grain)
        self._set_mask(mask)
        self.zero_pruned()
        return super()._move(mask, fraction, step, batch) if self.regrows else (0, mask)

    def _dense_phase(self, mask: Mask) -> Mask:
        self.reopened = True
        weights = self.weights
        for name, kept in mask.items():
            self._forget(weights[name], torch.ones_like(kept))
        return {name: torch.ones_like(kept) for name, kept in mask.items()}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"reopened": self.reopened, "twin": self.twin}

    def to_come(self) -> dict[str, Any]:
        return super().to_come() | {"twin": dict(self.model.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.reopened, self.twin = bool(state["reopened"]), state["twin"]
