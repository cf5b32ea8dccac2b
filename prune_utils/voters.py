"""Voters: whose loss decides about which weights, and which task owns which weight.

A task owns a weight if its loss depends on it. That is a property of the graph, so `owners_from_graph` asks
autograd; names are never parsed. (Graphs that hide weights, those of reentrant checkpointing and of compiled
code, are not built here: isolation.py.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from torch import Tensor, nn

from .covering import UNOWNED, Choice, Coverage, coverage
from .data import ByTask, Forward, is_by_task, loss_value, predict, targets_of
from .isolation import reached_leaves, reached_shards, seed_streams, untouched
from .parameters import find_parameters, unwrap
from .seeds import mix_seed
from .shards import is_shard
from .text import not_one_of

Loss = Callable[[Any, Any], Tensor | None]  # (predictions, targets) -> scalar; None = no label in this batch
Owners = Mapping[str, frozenset[str]]  # parameter name -> tasks
Batch = Any  # (input, targets), or whatever a `forward` argument takes
Gather = Callable[
    [Tensor], Sequence[Tensor]
]  # this process's tensor -> that of every process, in their order


VOTERS = ("tasks", "joint")  # every task for itself, or the weighted sum of the losses as the only voter


@dataclass(frozen=True)
class Voter:
    """Someone who ranks the weights that it owns: one task, or "joint" for all of them together.

    parts: task -> its share of the loss, where every task has batches of its own; {} = the loss is the part
    of the task `name`.
    """

    name: str
    loss: Loss
    owns: frozenset[str]  # parameter names
    parts: Mapping[str, Loss] = field(default_factory=dict)

    @property
    def by_task(self) -> Mapping[str, Loss]:
        """Task -> the part of the loss that is read off its batches."""
        return self.parts or {self.name: self.loss}

    def among(self, names: Iterable[str]) -> Voter:
        """The same voter, restricted to some weights."""
        return replace(self, owns=self.owns.intersection(names))


@dataclass(frozen=True)
class Electorate:
    """All that is needed to hold a vote: every task's loss, its weight in the sum, and what it owns.

    gather: a tensor of every process, None = as torch.distributed says.
    """

    losses: Mapping[str, Loss]
    weights: Mapping[str, float]
    owners: Owners
    gather: Gather | None = None

    def voters(self, kind: str) -> tuple[Voter, ...]:
        """kind "tasks": one voter per task; "joint": the weighted sum of the losses as the only voter."""
        if kind == "tasks":
            return task_voters(self.losses, self.owners)
        if kind == "joint":
            return (joint_voter(self.losses, self.weights, self.owners),)
        raise ValueError(not_one_of("voters", kind, sorted(VOTERS)))


def task_voters(losses: Mapping[str, Loss], owners: Owners) -> tuple[Voter, ...]:
    """One voter per task, with its unweighted loss. Raises ValueError on an owner without a loss."""
    _check_owners(losses, owners)
    return tuple(
        Voter(task, loss, frozenset(name for name, tasks in owners.items() if task in tasks))
        for task, loss in losses.items()
    )


def joint_voter(losses: Mapping[str, Loss], weights: Mapping[str, float], owners: Owners) -> Voter:
    """A single voter: the weighted sum of the losses, owner of every weight that some task owns.

    Raises ValueError when a task has no weight.
    """
    _check_owners(losses, owners)
    missing = sorted(set(losses) - set(weights))
    if missing:
        raise ValueError(
            f"loss weight of task {missing[0]!r} is missing; there are {', '.join(sorted(weights))}"
        )

    parts = {task: _weighted(task, task_loss, weights[task]) for task, task_loss in losses.items()}

    def loss(predictions: Any, targets: Any) -> Tensor | None:
        return total(part(predictions, targets) for part in parts.values())

    return Voter("joint", loss, frozenset(name for name, tasks in owners.items() if tasks), parts)


def _weighted(task: str, loss: Loss, weight: float) -> Loss:
    def weighted(predictions: Any, targets: Any) -> Tensor | None:
        value = loss(predictions, targets)
        return None if value is None else weight * value

    return weighted


def total(values: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of the losses that are there, None if none is."""
    there = [value for value in values if value is not None]
    return sum(there[1:], there[0]) if there else None


class Ownership(dict[str, frozenset[str]]):
    """Parameter name -> the tasks that own it, of everything that a ratio speaks of.

    coverage: every parameter of the network, and why those that are no key here are left alone. idle: tasks
    that own nothing, whose parameters are all left alone.
    """

    def __init__(self, owners: Owners, coverage: Coverage, idle: Sequence[str] = ()) -> None:
        super().__init__(owners)
        self.coverage = coverage
        self.idle = tuple(idle)

    @property
    def shapes(self) -> dict[str, Any]:
        """Shapes of the weights, for a budget."""
        return {name: shape for name, shape in self.coverage.shapes.items() if name in self}


UNOWNED_CHOICES = ("leave_out", "prune")
MORE_DRAWS = 8  # passes in train mode where the structure itself is random


def owners_from_graph(
    model: nn.Module,
    losses: Mapping[str, Loss],
    *batches: Any,
    forward: Forward | None = None,
    include: Choice = None,
    exclude: Choice = None,
    among: Coverage | None = None,
    unowned: str = "leave_out",
) -> Ownership:
    """The tasks whose loss depends on each prunable weight; leaves the model untouched.

    batches: batches as arguments, whose owners are united; or one mapping task -> iterable of that task's own
        batches. A loss may return None for a batch without its task. forward: forward(network, batch) for a
        network that does not take `batch[0]`.
    include, exclude: as `coverage` takes them, which looks at the first batch too; among: the coverage
        itself, if it is known already.
    unowned: what happens to weights that no task uses. "leave_out": they stay dense, are no key of the result
        and stand in its `coverage` as unowned; "prune": they are keys without a task, count in the total and
        are pruned before all others of their pool; a budget by layer leaves them its share.
    Every batch is run in train mode and the first one in evaluation mode too (if the network and the losses
    can); where the two disagree, the structure is random (layers are dropped) and more passes are united.
    Raises ValueError: no batch, a task without a loss in any batch, a loss that is no single value or depends
        on no parameter of the network, a graph that hides weights, an unknown choice for `unowned`. A task
        that owns none of the weights, as they are excluded or frozen, stands in `idle` of the result.
    """
    if unowned not in UNOWNED_CHOICES:
        raise ValueError(not_one_of("unowned", unowned, UNOWNED_CHOICES))
    steps = list(by_task_steps(losses, batches))
    if not steps:
        raise ValueError("finding owners needs at least one batch, and there is none")
    first_batch = list(steps[0].values())[:1]
    covered = among or coverage(model, include, exclude, batches=first_batch, forward=forward)
    weights = find_parameters(model, covered.names)
    owned: dict[str, set[str]] = {name: set() for name in weights}
    with untouched(model, weights.values()):
        look = _Look(model, losses, weights, forward)
        heard: set[str] = set()
        for number, step in enumerate(steps):
            seed_streams(model, mix_seed("owners", number))
            heard |= _unite(owned, look(step))
        silent = [task for task in losses if task not in heard]
        if silent:
            raise ValueError(
                f"task {silent[0]!r} has no loss in any of the {len(steps)} batches: give one that holds it"
            )
        first = {name: frozenset(tasks) for name, tasks in owned.items()}
        unwrap(model).eval()
        try:
            _unite(owned, look(steps[0]))
        except Exception:  # detectors return no losses in evaluation mode: the look was an additional one
            several = True
        else:
            several = first != owned
        unwrap(model).train()
        for draw in range(MORE_DRAWS if several else 0):
            seed_streams(model, mix_seed("owners again", draw))
            _unite(owned, look(steps[draw % len(steps)]))
    idle = sorted(set(losses).difference(*owned.values()))
    for task in idle:
        if task not in look.touching:
            raise ValueError(
                f"loss of task {task!r} depends on no parameter of this network: on features that are "
                "detached, or on a module outside of it"
            )
    lost = [name for name, tasks in owned.items() if not tasks]
    if unowned == "leave_out":
        covered = covered.without(lost, UNOWNED)
        owned = {name: tasks for name, tasks in owned.items() if tasks}
    return Ownership({name: frozenset(tasks) for name, tasks in owned.items()}, covered, idle)


def by_task_steps(losses: Mapping[str, Any], batches: tuple[Any, ...]) -> Iterable[Mapping[str, Any]]:
    """Steps as mappings task -> batch, from such steps (ByTask), batches for all tasks or one mapping task ->
    batches."""
    if all(isinstance(batch, ByTask) for batch in batches):
        yield from batches
    elif len(batches) == 1 and is_by_task(batches[0], losses):
        nothing = object()
        for row in zip_longest(*batches[0].values(), fillvalue=nothing):
            yield {task: batch for task, batch in zip(batches[0], row, strict=True) if batch is not nothing}
    else:
        for batch in batches:
            yield dict.fromkeys(losses, batch)


@dataclass(frozen=True)
class _Look:
    """Which weights each task's loss reaches in the graph of one step: {task: names}.

    touching: tasks whose loss reached any parameter of the network in a step so far.
    """

    model: nn.Module
    losses: Mapping[str, Loss]
    weights: Mapping[str, Tensor]
    forward: Forward | None
    touching: set[str] = field(default_factory=set)

    def __call__(self, step: Mapping[str, Any]) -> dict[str, set[str]]:
        names = {id(weight): name for name, weight in self.weights.items()}
        parameters = {id(parameter): parameter for parameter in self.model.parameters()}
        predictions: dict[int, Any] = {}
        found = {}
        for task, batch in step.items():
            if id(batch) not in predictions:
                predictions = {id(batch): predict(unwrap(self.model), batch, self.forward)}
            value = self.losses[task](predictions[id(batch)], targets_of(batch))
            value = loss_value(f"task {task!r}", value)
            if value is not None:
                if any(map(is_shard, self.weights.values())):
                    reached = reached_shards(value, parameters.values())
                else:
                    reached = reached_leaves(value, self.weights.values())
                if any(id(leaf) in parameters for leaf in reached):
                    self.touching.add(task)
                found[task] = {names[id(leaf)] for leaf in reached if id(leaf) in names}
        return found


def _unite(owned: dict[str, set[str]], found: Mapping[str, set[str]]) -> set[str]:
    for task, names in found.items():
        for name in names:
            owned[name].add(task)
    return set(found)


def _check_owners(losses: Mapping[str, Loss], owners: Owners) -> None:
    for name, tasks in owners.items():
        unknown = sorted(tasks - set(losses))
        if unknown:
            raise ValueError(not_one_of(f"{name!r}: owner", unknown[0], sorted(losses)))
