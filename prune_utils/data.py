"""Batches as multitask users have them: pairs, dictionaries, or a loader of its own for every task.

A batch is (input, targets) and predictions are `model(input)`; with `forward(model, batch)` it may be
anything. A loss is called with the predictions and, of a pair, its second half, else the whole batch. `None`
as a loss means that the batch holds no label of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice, zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Forward = Callable[[nn.Module, Any], Any]  # (network, batch) -> predictions


def predict(model: nn.Module, batch: Any, forward: Forward | None) -> Any:
    """The network's predictions for a batch.

    Raises ValueError for a batch that is no pair, TypeError for a network that does not take the pair's first
    half, both unless `forward` says how to call it.
    """
    if forward is not None:
        return forward(model, batch)
    if not _is_pair(batch):
        raise ValueError(
            f"a batch of type {type(batch).__name__} is no pair (input, targets): "
            "pass forward=lambda model, batch: ..., which returns the predictions"
        )
    try:
        return model(batch[0])
    except TypeError as error:
        raise TypeError(
            f"the network does not take a batch's input as its only argument ({error}): "
            "pass forward=lambda model, batch: ..., which returns the predictions"
        ) from error


def targets_of(batch: Any) -> Any:
    """What a loss gets next to the predictions: the second half of a pair, else the whole batch."""
    return batch[1] if _is_pair(batch) else batch


def loss_value(whose: str, value: Any) -> Tensor | None:
    """The value of a loss, None for a batch without the task. whose: "task 'a'", for messages.

    Raises ValueError for what is no single number that a weight can change.
    """
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise ValueError(
            f"loss of {whose} is {value!r}, a {type(value).__name__} and not a tensor; "
            "None is right where the batch holds no label of the task"
        )
    if value.numel() != 1:
        raise ValueError(
            f"loss of {whose} has shape {tuple(value.shape)}, not a single value: take its mean or sum"
        )
    if not value.requires_grad:
        raise ValueError(f"loss of {whose} depends on no weight of the network")
    return value


def is_by_task(batches: Any, tasks: Iterable[str]) -> bool:
    """Whether this is a mapping task -> something of its own: all its keys are tasks."""
    return isinstance(batches, Mapping) and bool(batches) and set(batches) <= set(tasks)


class ByTask(dict[str, Any]):
    """One step: the batch of every task. Nobody has to guess from its keys whether it is one."""


class Taken(NamedTuple):
    """Batches that were read, as those take them that are given some."""

    given: tuple[ByTask, ...]  # owners_from_graph
    numbered: Any  # make_mask
    steps: list[Any]  # one after the other; ByTask where every task has its own
    first: list[Any]  # one batch, or none where there is none
    by_task: bool  # whether every task has its own

    def first_of_each(self, number: int) -> Any:
        """The first so many, numbered; of every task's own where it has some."""
        if self.by_task:
            return {task: batches[:number] for task, batches in self.numbered.items()}
        return self.numbered[:number]


def read_batches(
    batches: Iterable[Any] | Mapping[str, Iterable[Any]], tasks: Collection[str], number: int | None = None
) -> Taken:
    """The batches, `number` at most, of all tasks or a mapping task -> batches of its own.

    Raises ValueError for a mapping of others than these tasks, and for a number that is none.
    """
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 0):
        raise ValueError(f"num_batches {number!r} is not a whole number of at least 0")
    if not isinstance(batches, Mapping):
        steps = list(islice(batches, number))
        given = tuple(ByTask(dict.fromkeys(tasks, batch)) for batch in steps)
        return Taken(given, list(enumerate(steps)), steps, steps[:1], False)
    if not is_by_task(batches, tasks) or set(batches) != set(tasks):
        raise ValueError(
            f"batches by task are of {', '.join(map(str, batches))}, the losses of {', '.join(tasks)}: "
            "give every task its own, or a list of batches for all"
        )
    taken = {task: list(islice(theirs, number)) for task, theirs in batches.items()}
    nothing = object()
    rows = zip_longest(*taken.values(), fillvalue=nothing)
    own = [
        ByTask({task: batch for task, batch in zip(taken, row, strict=True) if batch is not nothing})
        for row in rows
    ]
    first = [batch for theirs in taken.values() for batch in theirs][:1]
    return Taken(tuple(own), taken, own, first, True)


def follow(batches: Any, before: torch.device | None, now: torch.device | None) -> Any:
    """Batches, or one of them, with what is on the device `before` on the device `now`.

    A network and its batches were on `before`, and the network is on `now`; None = on several. What has no
    `to` stays, and so does all where the devices are the same or several.
    """
    if before is None or now is None or before == now:
        return batches
    if isinstance(batches, ByTask):  # tasks may share a batch, which runs through the network once
        moved = {id(batch): follow(batch, before, now) for batch in batches.values()}
        return ByTask({task: moved[id(batch)] for task, batch in batches.items()})

    def moves(part: Any) -> bool:
        return callable(getattr(part, "to", None))

    def move(part: Any) -> Any:
        return part.to(now) if moves(part) and getattr(part, "device", before) == before else part

    return pytree.tree_map(move, batches, is_leaf=moves)


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, (tuple, list)) and len(batch) == 2
