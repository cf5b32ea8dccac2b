"""Forward and backward of one batch: gradients of the weighted sum of the losses, or of every task by itself.

A batch is computed in parts whose gradients add up, and several processes share it; either way the gradients
that the optimiser gets are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from common.gramian import gramian
from tasks.base import Target

from .buffers import same_buffers
from .learner import Learner
from .sharing import Batch, parts, valid_shares
from .weighing import Gradients, Seen, combined

NOBODY = 4_098  # stands for a process's number in seeds of what all of them draw alike


def training_step(
    learner: Learner, batch: Batch, accumulate: int = 1, number: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Forward and backward of one batch, its gradients accumulated over `accumulate` parts.

    number: of the step; seed: of the run.
    Returns each task's loss and their sum in the fixed weights, [tasks + 1], whose mean over processes is
    that of the whole batch; and what share of each task's valid pixels was here, [tasks], whose mean is 0
    for a task without any in the whole batch, which has no part in the loss, else 1.
    """
    weighing = learner.weighing
    weighing.begin()
    if weighing.measures(number):
        _measure(learner, batch, accumulate)
        seed_step(seed, number, learner.fabric.global_rank)
    rule = weighing.rule
    if rule is None:
        return _summed(learner, batch, accumulate, lambda losses, shares: learner.objective.total(losses))
    if rule.sees_gradients or accumulate > 1:
        return _weighed_by_task(learner, batch, accumulate, number, seed)
    return _summed(
        learner, batch, 1, lambda losses, shares: _rule_total(learner, losses, shares, number, seed)
    )


def seed_step(seed: int, step: int, rank: int) -> None:
    """One stream per step and process: dropout of step s is the same whenever step s is computed."""
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def losses_of(learner: Learner, batch: Batch, accumulate: int = 1) -> Tensor:
    """The losses [tasks] of a batch in the fixed weights, of all processes, without gradients.

    The network's buffers (statistics of its norms) are as before afterwards.
    """
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad(), same_buffers(learner.network):
        walk = _Walk(learner, batch, accumulate)
        for losses in walk:
            total = total + torch.stack(list(losses.values())).double().cpu()
    return _weighted(learner, _mean(learner, total))


# ------------------------------------------------------------------ one backward pass
Total = Callable[[dict[str, Tensor], dict[str, Tensor]], Tensor]


def _summed(learner: Learner, batch: Batch, accumulate: int, total_of: Total) -> tuple[Tensor, Tensor]:
    """total_of(losses, shares): what goes backward in a part."""
    walk, figures = _Walk(learner, batch, accumulate), []
    for losses in walk:
        learner.fabric.backward(total_of(losses, walk.shares))
        figures.append(_figures(learner, losses))
    return torch.stack(figures).sum(0), walk.present


def _figures(learner: Learner, losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([*losses.values(), learner.objective.total(losses)]).detach()


def _rule_total(
    learner: Learner, losses: dict[str, Tensor], shares: dict[str, Tensor], number: int, seed: int
) -> Tensor:
    """The losses in the fixed weights and those of a rule that looks at the losses of all processes."""
    values = torch.stack([loss.detach() for loss in losses.values()])
    present = torch.stack([of.sum() for of in shares.values()])
    both = _mean(learner, torch.stack([values, present]).double().cpu())
    weights = _weights(learner, both[0], both[1], None, number, seed)
    fixed = learner.objective.weights
    parts = [weight * fixed[n] * loss for weight, (n, loss) in zip(weights, losses.items(), strict=True)]
    return torch.stack(parts).sum()


# ------------------------------------------------------------- a backward pass for each task
class ByTask(NamedTuple):
    """figures and shares as `training_step` returns them; gradients: of all processes, unscaled."""

    figures: Tensor
    present: Tensor
    gradients: Gradients
    scale: float


def _weighed_by_task(
    learner: Learner, batch: Batch, accumulate: int, number: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The optimiser gets every task's gradients in the rule's weights; private ones in the fixed weights
    alone, where the rule looks at what is shared."""
    weighing = learner.weighing
    found = _by_task(learner, batch, accumulate)
    both = torch.stack([found.figures[:-1], found.present]).double().cpu()
    both = _mean(learner, both)
    gram = None
    if weighing.rule is not None and weighing.rule.sees_gradients:
        gram = gramian(found.gradients, _shared(learner), learner.sparsifier.trained)
        weighing.note(gram)
    weights = _weights(learner, both[0], both[1], gram, number, seed)
    parameters = learner.parameters
    only = None if gram is None else weighing.shared
    for name, gradient in combined(found.gradients, weights, only).items():
        parameters[name].grad = gradient * found.scale if found.scale != 1 else gradient
    return found.figures, found.present


def _measure(learner: Learner, batch: Batch, accumulate: int) -> None:
    """Look at the tasks' gradients for the record, and leave all but the random stream as it was."""
    with same_buffers(learner.network):
        found = _by_task(learner, batch, accumulate)
    learner.weighing.note(gramian(found.gradients, _shared(learner), learner.sparsifier.trained))


def _by_task(learner: Learner, batch: Batch, accumulate: int) -> ByTask:
    """Gradients of each task's loss in its fixed weight; every parameter's own `.grad` is None afterwards."""
    fabric, objective, parameters = learner.fabric, learner.objective, learner.parameters
    rows: list[dict[str, Tensor]] = [{} for _ in objective.tasks]
    walk, figures = _Walk(learner, batch, accumulate, by_task=True), []
    for losses in walk:
        for place, (task, loss) in enumerate(losses.items()):
            fabric.backward(objective.weights[task] * loss, retain_graph=place + 1 < len(rows))
            _take(parameters, rows[place])
        figures.append(_figures(learner, losses))
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    scale = 1.0 if scaler is None else float(scaler.get_scale())
    if scale != 1:
        rows = [{name: gradient / scale for name, gradient in of.items()} for of in rows]
    if fabric.world_size > 1:
        rows = [_mean_of_all(learner, of) for of in rows]
    return ByTask(torch.stack(figures).sum(0), walk.present, rows, scale)


def _take(parameters: dict[str, Any], row: dict[str, Tensor]) -> None:
    """Add the parameters' gradients to a task's, and leave none behind."""
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            row[name] = row[name] + parameter.grad if name in row else parameter.grad
            parameter.grad = None


def _mean_of_all(learner: Learner, of: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean over processes, in one message."""
    flat = torch.cat([gradient.reshape(-1) for gradient in of.values()])
    flat = cast(Tensor, learner.fabric.all_reduce(flat, reduce_op="mean"))
    pieces = flat.split([gradient.numel() for gradient in of.values()])
    return {name: piece.view(of[name].shape) for name, piece in zip(of, pieces, strict=True)}


def _shared(learner: Learner) -> list[str]:
    return [name for name in learner.parameters if name in learner.weighing.shared]


def _weights(
    learner: Learner, losses: Tensor, present: Tensor, gram: Tensor | None, number: int, seed: int
) -> list[float]:
    """The rule's weights; all 1 where the batch lacks a task."""
    if not present.all() or (gram is not None and not gram.any()):
        return [1.0] * len(losses)
    seen = Seen(number, _weighted(learner, losses), gram, learner.optimizer.param_groups[0]["lr"])
    return learner.weighing.weigh(seen, (seed * 1_000_003 + number) * 4_099 + NOBODY).tolist()


def _weighted(learner: Learner, losses: Tensor) -> Tensor:
    return losses * torch.tensor(list(learner.objective.weights.values()), dtype=torch.float64)


def _mean(learner: Learner, values: Tensor) -> Tensor:
    fabric = learner.fabric
    if fabric.world_size == 1:
        return values
    return cast(Tensor, fabric.all_reduce(fabric.to_device(values), reduce_op="mean")).cpu()


# ------------------------------------------------------------------------ forward
class _Walk:
    """Forward through the parts of a batch: yields each part's losses, which add up to the batch's.

    by_task: no gradient is sent to other processes; else those of the last part are, with all before. Graphs
    are replayed where the losses go backward together.
    """

    def __init__(self, learner: Learner, batch: Batch, accumulate: int, by_task: bool = False) -> None:
        self.learner, self.by_task = learner, by_task
        self.pieces = parts(batch, accumulate)
        self.shares: dict[str, Tensor] = {}  # task -> what each part counts for

    def __iter__(self) -> Any:
        fabric, network, objective = self.learner.fabric, self.learner.network, self.learner.objective
        together = torch.is_grad_enabled() and not self.by_task
        forward = self.learner.recorded if self.learner.recorded and together else network
        for number, (image, targets) in enumerate(self.pieces):
            apart = self.by_task or number + 1 < len(self.pieces)
            with fabric.no_backward_sync(cast(Any, network), enabled=apart):
                preds = forward(image)
                for name in () if self.shares else objective.tasks:
                    self.shares[name] = self._shares(name, preds[name].shape[-2:])
                yield {
                    name: loss(preds, targets) * self.shares[name][number]
                    for name, loss in objective.losses.items()
                }

    def _shares(self, name: str, size: Any) -> Tensor:
        targets: list[Target] = [of[name] for _, of in self.pieces]
        return valid_shares(self.learner.fabric, targets, size)

    @property
    def present(self) -> Tensor:
        return torch.stack([of.sum() for of in self.shares.values()])
