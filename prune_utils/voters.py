"""Voters: whose loss decides about which weights, and which task owns which weight.

A task owns a weight if its loss depends on it. That is a property of the graph, so `owners_from_graph` asks
autograd; names are never parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .isolation import untouched
from .masks import prunable

Loss = Callable[[Any, Any], Tensor]  # (predictions, targets) -> scalar; both opaque
Owners = Mapping[str, frozenset[str]]  # parameter name -> tasks
Batch = tuple[Any, Any]  # (input, targets); predictions = model(input)
Gather = Callable[
    [Tensor], Sequence[Tensor]
]  # this process's tensor -> that of every process, in their order


@dataclass(frozen=True)
class Voter:
    """Someone who ranks the weights that it owns: one task, or "joint" for all of them together."""

    name: str
    loss: Loss
    owns: frozenset[str]  # parameter names

    def among(self, names: Iterable[str]) -> Voter:
        """The same voter, restricted to some weights."""
        return replace(self, owns=self.owns.intersection(names))


@dataclass(frozen=True)
class Electorate:
    """All that is needed to hold a vote: every task's loss, its weight in the sum, and what it owns.

    gather: a tensor of every process, None = there is one process.
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
        raise ValueError(f"voters {kind!r} is not one of joint, tasks")


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

    def loss(predictions: Any, targets: Any) -> Tensor:
        return sum(weights[task] * task_loss(predictions, targets) for task, task_loss in losses.items())

    return Voter("joint", loss, frozenset(name for name, tasks in owners.items() if tasks))


def owners_from_graph(
    model: nn.Module, losses: Mapping[str, Loss], batch: Batch
) -> dict[str, frozenset[str]]:
    """The tasks whose loss on `batch` depends on each prunable weight; leaves the model untouched."""
    weights = prunable(model)
    owners: dict[str, set[str]] = {name: set() for name in weights}
    with untouched(model, weights.values()):
        predictions = model(batch[0])
        for task, loss in losses.items():
            value = loss(predictions, batch[1])
            if not value.requires_grad:
                raise ValueError(f"loss of task {task!r} depends on no weight of the network")
            gradients = torch.autograd.grad(
                value, list(weights.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    owners[name].add(task)
    return {name: frozenset(tasks) for name, tasks in owners.items()}


def _check_owners(losses: Mapping[str, Loss], owners: Owners) -> None:
    for name, tasks in owners.items():
        unknown = sorted(tasks - set(losses))
        if unknown:
            raise ValueError(f"owner {unknown[0]!r} of {name!r} is not one of {', '.join(sorted(losses))}")
