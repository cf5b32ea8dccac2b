"""What only a network and a batch can tell of a plan: owners, costs, channels that hang together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from .channelwise import link
from .covering import EXCLUDED, FROZEN, Choice, Coverage, coverage
from .data import ByTask, Forward
from .multiply_adds import weight_uses
from .plan import Plan, check_factors
from .removing import Call
from .roles import WEIGHTS
from .text import not_one_of
from .voters import Batch, Electorate, Gather, Loss, owners_from_graph


def prepare(
    model: nn.Module,
    plan: Plan,
    losses: Mapping[str, Loss],
    given: Iterable[ByTask],
    first: Sequence[Batch],
    *,
    forward: Forward | None = None,
    loss_weights: Mapping[str, float] | None = None,
    gather: Gather | None = None,
    include: Choice = None,
    exclude: Choice = None,
    unowned: str = "leave_out",
) -> tuple[Plan, Electorate]:
    """The plan with multiply-adds and channels, where it needs them, and the tasks with what each owns.

    given: steps with the batch of every task. first: one batch, or none where nobody has any; the
    others as of `sparsify`. The network is left untouched. Raises ValueError as those do that it calls.
    """
    check_factors(plan, losses)
    for task in loss_weights or ():
        if task not in losses:
            raise ValueError(not_one_of("loss weight of task", str(task), list(map(str, losses))))
    covered = coverage(model, include, exclude, batches=first, forward=forward)
    for batch in first:
        if plan.counted:
            plan = replace(plan, uses=weight_uses(model, batch, forward))
        if plan.removes:
            example, call = example_of(batch, forward)
            plan = replace(plan, linked=link(model, example, plan.protect, call, _left_alone(covered)))
    owners = owners_from_graph(model, losses, *given, forward=forward, among=covered, unowned=unowned)
    return plan, Electorate(losses, dict.fromkeys(losses, 1.0) | dict(loss_weights or {}), owners, gather)


def _left_alone(covered: Coverage) -> dict[str, str]:
    """Layers whose weight is left out by the user -> why: frozen, excluded."""
    return {
        entry.name.rpartition(".")[0]: entry.reason
        for entry in covered.entries
        if entry.reason in (FROZEN, EXCLUDED) and entry.kind in WEIGHTS
    }


def example_of(batch: Batch, forward: Forward | None) -> tuple[tuple[Any, ...], Call | None]:
    """Arguments of one call of the network, and the call where `forward` makes it (as of `link`)."""
    if forward is None:
        return (batch[0],), None
    return (batch,), lambda network, given: forward(network, given[0])
