"""Regrowth: a network that is sparse from the first step to the last and moves its mask while it trains.

Every so many steps each layer drops a fraction of its active weights, those of least magnitude, and grows as
many inactive ones, those that the voters want most by |dL/dw| of the current batch in the true sparse
network. So the count in every layer never changes. (RigL, Evci et al., ICML 2020; SET, Mocanu et al., 2018,
grows at random; DiSparse lets every task vote.) A weight just dropped is inactive like any other: it may be
grown again, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from .arbiters import Arbiter, find_arbiter
from .attaching import unwrapped
from .budgets import Pool
from .choosing import choose
from .criteria import find_criterion
from .data import Forward, follow, is_by_task
from .divided import divided, number_of_slices, spare
from .gathering import gather_for
from .granularity import WEIGHTS, Grain
from .masked import Masked
from .masks import Mask, Scores, check_same_everywhere, count, size
from .measures import flow
from .parameters import device_of
from .progress import Progress
from .ranking import rank_fractions
from .scoring import score
from .shards import part, part_like, whole
from .voters import Gather, Voter
from .zeroing import zero_pruned


class Timing(Protocol):
    """When a mask moves, and by how much."""

    def due(self, step: int) -> bool: ...

    def drop_fraction(self, step: int) -> float: ...


@dataclass(frozen=True)
class Schedule:
    """When to move the mask, in steps: every `every` steps up to step `until`; `fraction` is the first
    drop."""

    until: int
    every: int
    fraction: float = 0.5

    def __post_init__(self) -> None:
        if self.every < 1 or self.until < 0:
            raise ValueError(
                f"dynamic schedule needs every >= 1 and until >= 0, not {self.every} and {self.until}"
            )
        if not 0 <= self.fraction <= 1:
            raise ValueError(f"dynamic fraction {self.fraction!r} is not between 0 and 1")

    def due(self, step: int) -> bool:
        """True after steps every, 2 every, ... until; never before training has begun."""
        return 0 < step <= self.until and step % self.every == 0

    def drop_fraction(self, step: int) -> float:
        """Cosine from `fraction` at step 0 to 0 at `until`."""
        done = min(step / self.until, 1.0) if self.until else 1.0
        return self.fraction / 2 * (1 + math.cos(math.pi * done))


def make_schedule(until: float, every: float, fraction: float, iterations: int) -> Schedule:
    """until and every in steps, or below 1 as fractions of `iterations`.

    Raises ValueError for an end after the run, and where `every` is more than `until`, so that nothing would
    move. A run that is too short for an `every` in steps before an `until` in fractions moves nothing.
    """
    steps = [round(value * iterations) if value < 1 else round(value) for value in (until, every)]
    if steps[0] > iterations:
        raise ValueError(
            f"dynamic.until {until:g} is after the end of the run, which has {iterations} steps: choose a "
            "step in it, or a share of it below 1"
        )
    alike = (until < 1) == (every < 1)
    if (alike and every > until) or (until >= 1 > every and steps[1] > steps[0]):
        raise ValueError(
            f"dynamic.every {every:g} is more than dynamic.until {until:g}, and the mask would never move: "
            "both are steps, or below 1 shares of the run"
        )
    return Schedule(steps[0], max(steps[1], 1), fraction)


@dataclass(frozen=True)
class Growth:
    """Who decides what grows, and how.

    memory: from 0 up to, not including, 1: the weight of the votes before in a moving average, by voter.
    salient: from 0 to 1, for a constant fan-in (fan_in.py): a neuron that has fewer salient weights than this
        share of the fan-in loses all its weights; 0 = every neuron stays.
    gather: a tensor of every process, None = those of torch.distributed, if there are several. Each of
        several sees its share of a step's batch, and |mean of their gradients| is what votes: the gradient of
        the whole batch.
    forward: forward(network, batch) -> predictions, None = network(batch[0]).
    grain: what is kept or pruned together.
    drop: criterion of what goes, "magnitude" = the smallest weights. By one that reads gradients the voters
        rank the active weights on the batch of the step, and the arbiter decides: with tasks, nothing goes
        that one of them needs.
    progress: at least 0: voters whose loss has come down less than the others', since the first change of the
        mask, ask louder, by factors that are their relative inverse training rates to this power
        (progress.py); 0 = all alike.
    """

    voters: tuple[Voter, ...]
    criterion: str = "gradient"
    arbiter: str | Arbiter = "unanimous"
    seed: int = 0
    gather: Gather | None = None
    forward: Forward | None = None
    memory: float = 0.0
    grain: Grain = WEIGHTS
    salient: float = 0.3
    drop: str = "magnitude"
    progress: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.memory < 1:
            raise ValueError(f"growth memory {self.memory!r} is not from 0 up to, not including, 1")
        if not 0 <= self.salient <= 1:
            raise ValueError(f"growth salient {self.salient!r} is not a share between 0 and 1")
        find_criterion(self.drop)
        if not 0 <= self.progress < math.inf:
            raise ValueError(f"growth progress {self.progress!r} is not at least 0 and finite")
        if self.progress:
            self._check_progress()

    def _check_progress(self) -> None:
        rule, said = find_arbiter(self.arbiter), f"growth progress {self.progress:g}"
        if len(self.voters) < 2:
            raise ValueError(
                f"{said} tells voters apart, and there is one at most: let several tasks vote on growth"
            )
        if rule.standings is not rank_fractions or rule.votes(len(self.voters)) != 1:
            raise ValueError(
                f"{said} divides the ranks of who is behind, which helps where one vote keeps a weight: "
                "choose arbiter unanimous or weighted"
            )
        if find_criterion(self.criterion).measure in (None, flow):
            raise ValueError(
                f"{said} hears the losses that the voters are asked for, and criterion {self.criterion!r} "
                "asks for none"
            )


class Regrowth(Masked):
    """Masked, with a mask that moves. Every layer keeps the count that it has in the first mask."""

    moves = True
    parts: tuple[str, ...] = ("mask", "updates")

    def __init__(
        self,
        model: nn.Module,
        mask: Mask,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
        schedule: Timing,
        growth: Growth,
        *,
        batches: Iterable[Any] | None = None,
        numbered: Iterable[tuple[int, Any]] | None = None,
        by_task: bool = True,
        **known: Any,
    ) -> None:
        """optimizer: whatever trains the network, so that grown weights start with fresh state: one, several,
            or None = those that `attach` is given.
        batches: for a mask that is attached and not told the `batch` of its step: these vote in turn, on the
            device where the network is then, if it has moved since.
        by_task: whether a batch whose keys are all tasks holds a batch of each; False = it is one that
            `growth.forward` takes.
        numbered: (number, batch) pairs that say what is needed, read again at every change; None = the step's
            batch. Growth is voted on the latter always.
        known: owners and asked, as of Masked.
        Raises ValueError when the mask does not fit, or for an optimizer without state for each weight.
        """
        super().__init__(model, mask, **known)
        given = () if optimizer is None else optimizer if isinstance(optimizer, Sequence) else (optimizer,)
        self.optimizers = tuple(map(unwrapped, given))
        self.check_optimizers(self.optimizers)
        self.schedule = schedule
        self.growth = growth
        self.batches = batches
        self.numbered = numbered
        self.by_task = by_task
        self._home = device_of(model)  # where the batches were given
        self.updates = 0
        self.progress = Progress(growth.voters, growth.progress, growth.gather) if growth.progress else None
        if self.progress and self._sharded and growth.gather is None:
            raise ValueError(
                "growth by progress of a sharded network needs `gather`: each process hears losses of its own"
            )
        self._average: dict[str, Scores] = {}  # of the votes so far, by voter; only with a memory
        self._stream: Iterator[Any] | None = None

    @torch.no_grad()
    def after_step(self, step: int, batch: Any) -> dict[str, float]:
        """Moves the mask if it is time. batch: (input, targets) of this step, or whatever `growth.forward`
        takes; None = the next of `batches`.

        Returns {} or density, drop_fraction (asked), dropped (weights) and replaced_share (of the kept
            weights). Raises ValueError when it is time and there is no batch or no optimizer.
        """
        super().after_step(step, batch)
        if not self.schedule.due(step):
            return {}
        self.check_optimizers(self.optimizers)
        fraction = self.schedule.drop_fraction(step)
        before = self.mask
        dropped, after = self._move(before, fraction, step, batch)
        check_same_everywhere(after, self.growth.gather)
        self._set_mask(after)
        self.updates += 1
        new = sum(int((after[name] & ~before[name]).count_nonzero()) for name in after)
        kept = count(after)
        return {
            "density": kept / size(after),
            "drop_fraction": fraction,
            "dropped": float(dropped),
            "replaced_share": new / max(kept, 1),
        }

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The first of the optimizers."""
        return self.optimizers[0]

    def attach(self, *optimizers: Any) -> Regrowth:
        super().attach(*optimizers)
        self.optimizers = tuple(map(unwrapped, optimizers))
        return self

    def _move(self, mask: Mask, fraction: float, step: int, batch: Any) -> tuple[int, Mask]:
        """Number of dropped weights, and the next mask; what is not kept throughout is 0 afterwards."""
        drops = self._drops(mask, fraction)
        moving = [name for name in mask if drops[name] > 0]
        if not moving:
            return 0, mask
        if not self.optimizers:
            raise ValueError("no optimizer is known, whose state must be fresh for grown weights: attach it")
        if find_criterion(self.growth.drop).needs_gradient:
            batch = self._batch(batch)  # one for what goes and what comes
        votes = self._remembered(self._growth_votes(step, batch, frozenset(moving)))
        # a layer whose owners have nothing to say about this batch stays as it is
        moving = [name for name in moving if any(name in of for of in votes.values())]
        weights = self.weights
        active = {name: mask[name] for name in moving}
        needs = {"magnitude": {name: whole(weights[name]).abs() for name in moving}}
        if self.growth.drop != "magnitude":
            needs = self._needs(step, batch, active, replace(self.growth, criterion=self.growth.drop))
        kept, after = self._exchange(
            active, drops, spare(self.model, needs, active, self.growth.grain), votes
        )
        for name in moving:
            self._start_at_zero(weights[name], ~kept[name])
        return sum(int((active[name] & ~kept[name]).count_nonzero()) for name in moving), mask | after

    def _drops(self, mask: Mask, fraction: float) -> dict[str, int]:
        """How many weights each layer drops, in whole units; layers keep counts, whatever a weight costs."""
        axes = divided(self.model)
        unit = self.growth.grain.by_weights.unit_costs({name: kept.shape for name, kept in mask.items()})
        drops = {}
        for name, kept in mask.items():
            active = int(kept.count_nonzero())
            held = number_of_slices(kept, axes[name]) * unit[name] if name in axes else 0
            # no more than is inactive: a full layer would only lose and regrow the same weights
            drop = min(int(fraction * active), kept.numel() - active, active - held)
            drops[name] = drop // unit[name] * unit[name]
        return drops

    def _exchange(
        self,
        active: Mask,
        drops: Mapping[str, int],
        needs: Mapping[str, Scores],
        votes: Mapping[str, Scores],
    ) -> tuple[Mask, Mask]:
        """What stays of the active weights of these layers, and with it what grows: their next mask.

        needs, votes: by voter, of what stays and of what grows.
        """
        grain = self.growth.grain.by_weights
        if not grain.granularity.whole:
            raise ValueError(
                f"granularity {grain.granularity.name} keeps parts full, and weights move one by one"
            )
        staying = tuple(Pool((name,), int(of.count_nonzero()) - drops[name]) for name, of in active.items())
        kept = choose(needs, staying, self.growth.arbiter, active, grain)
        missing = tuple(Pool((name,), drops[name]) for name in active)
        grown = choose(votes, missing, self.grow_arbiter, {name: ~kept[name] for name in active}, grain)
        return kept, {name: kept[name] | grown[name] for name in active}

    def may_hold(self, kept: Tensor, first: Tensor) -> bool:
        return bool(kept.sum() == first.sum())

    @property
    def grow_arbiter(self) -> str | Arbiter:
        """Who decides what grows: the arbiter, with the factors of the voters' progress where it counts."""
        arbiter = self.growth.arbiter
        return self.progress.weighed(find_arbiter(arbiter)) if self.progress else arbiter

    def _growth_votes(self, step: int, batch: Any, moving: frozenset[str]) -> dict[str, Scores]:
        """What the voters want of these weights, and what their losses say of their progress."""
        if self.progress is None:
            return self._votes(step, batch, moving, self.growth)
        votes = self._votes(step, batch, moving, replace(self.growth, voters=self.progress.voters))
        self.progress.note(votes.keys(), self._kept[next(iter(moving))].device)
        return votes

    def _needs(self, step: int, batch: Any, active: Mask, growth: Growth) -> dict[str, Scores]:
        """How much each voter needs of these weights. Who has nothing to say about this batch, a task without
        a label in it, ranks by |w|, so that it does not lose all that it owns."""
        scores, weights = self._votes(step, batch, frozenset(active), growth, self.numbered), self.weights
        for voter in growth.voters:
            if voter.name not in scores:
                scores[voter.name] = {
                    name: whole(weights[name]).abs() for name in active if name in voter.owns
                }
        return scores

    def _votes(
        self, step: int, batch: Any, moving: frozenset[str], growth: Growth, numbered: Any = None
    ) -> dict[str, Scores]:
        """What the voters want of these weights; who has nothing to say about this batch is left out.

        numbered: (number, batch) pairs that vote instead of the step's batch, None = that one.
        """
        voters = [voter.among(moving) for voter in growth.voters]
        gather = gather_for(self.model, growth.gather)
        mean = gather and (lambda gradient: [torch.stack(tuple(gather(gradient))).mean(0)])
        batches: Any = [(step, batch)]
        if numbered is not None:
            batches = follow(numbered, self._home, device_of(self.model))
        elif find_criterion(growth.criterion).needs_gradient:
            batch = self._batch(batch)
            tasks = [task for voter in voters for task in voter.by_task]
            batches = [(step, batch)]
            if self.by_task and is_by_task(batch, tasks):  # of every task its own, or none is left
                batches = {task: [batch[task]] if task in batch else [] for task in tasks}
        return score(
            self.model,
            voters,
            batches,
            growth.criterion,
            seed=growth.seed + step,
            gather=mean,
            forward=growth.forward,
            silent="abstain",
        )

    def _remembered(self, votes: dict[str, Scores]) -> dict[str, Scores]:
        """The votes, averaged with those before where growth has a memory."""
        memory = self.growth.memory
        if memory:
            for voter, of in votes.items():
                before = self._average.setdefault(voter, {})
                for name, score in of.items():
                    before[name] = score.lerp(before[name], memory) if name in before else score
                votes = votes | {voter: {name: before[name] for name in of}}
        return votes

    def _batch(self, batch: Any) -> Any:
        """The batch that votes: the one at hand, or the next of `batches`, which begin again at their end."""
        if batch is not None:
            return batch
        if self.batches is None:
            raise ValueError(
                f"the mask moves after step {self.step} and needs the step's batch: set `batch` before the "
                "optimizer's step, or pass `batches`"
            )
        return follow(self._next(self.batches), self._home, device_of(self.model))

    def _next(self, batches: Iterable[Any]) -> Any:
        if isinstance(batches, Sequence):
            return batches[self.updates % len(batches)]
        with torch.random.fork_rng(devices=[]):  # a loader draws from the stream that training draws from
            batch = next(self._stream, None) if self._stream else None
            if batch is None:
                self._stream = iter(batches)
                batch = next(self._stream, None)
        if batch is None:
            raise ValueError("`batches`, on which growth is voted, are empty")
        return batch

    def check_optimizers(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Raises ValueError also for state that cannot be made fresh for some elements of a weight: of
        another type than floating point, whose 0 may stand for any number."""
        super().check_optimizers(optimizers)
        for optimizer in optimizers:
            for name, weight in self.weights.items():
                for key, value in optimizer.state.get(weight, {}).items():
                    if _of_elements(value, weight) and not value.is_floating_point():
                        raise ValueError(
                            f"the {type(optimizer).__name__} keeps {key!r} of {name!r} as {value.dtype}, in "
                            "which 0 need not be 0, and weights that grow start with state 0: choose an "
                            "optimizer with 32-bit state"
                        )

    def _start_at_zero(self, weight: Tensor, where: Tensor) -> None:
        """Weight and optimiser state become 0 in place."""
        zero_pruned(part(weight), ~part_like(where, weight))
        self._forget(weight, where)

    def _forget(self, weight: Tensor, where: Tensor) -> None:
        """Optimiser state becomes 0 in place, in whichever optimiser holds it (Adam's step counter is per
        tensor and stays)."""
        kept = ~part_like(where, weight)
        for optimizer in self.optimizers:
            for value in optimizer.state.get(weight, {}).values():
                if _of_elements(value, weight):
                    zero_pruned(part(value), kept)

    def state_dict(self) -> dict[str, Any]:
        average = {
            voter: {name: score.clone() for name, score in of.items()} for voter, of in self._average.items()
        }
        state = super().state_dict() | {"updates": self.updates, "average": average}
        return state | ({"progress": dict(self.progress.seen)} if self.progress else {})

    def to_come(self) -> dict[str, Any]:
        later = super().to_come()
        if self.progress:
            later |= {"progress": self.progress.to_come()}
        if self.growth.memory:
            weights = self.weights
            later |= {
                "average": {
                    voter.name: {name: weights[name] for name in weights if name in voter.owns}
                    for voter in self.growth.voters
                }
            }
        return later

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.updates = int(state["updates"])
        self._average = {
            voter: {name: score.to(self._kept[name].device, copy=True) for name, score in of.items()}
            for voter, of in state.get("average", {}).items()
        }
        if self.progress:
            self.progress.load(state.get("progress", {}))


def _of_elements(value: Any, weight: Tensor) -> TypeGuard[Tensor]:
    """Whether a part of an optimiser's state has a value for each element of the weight."""
    return isinstance(value, Tensor) and value.shape == weight.shape
