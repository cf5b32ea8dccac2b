"""The training loop: the steps of one run of one network, from step `start` to its end.

Everything random in step s follows from (seed, s), so a resumed run repeats nothing and misses nothing.
Devices, precision and processes are Lightning Fabric's; sparsity is the Sparsifier's. Leaves out epochs (data
is an endless stream that is cut into steps), evaluation and files: who takes the steps does that in between.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tasks.base import Target, Task

from .sharing import Batch, parts, valid_shares
from .sparsifier import Sparsifier


@dataclass(frozen=True)
class Plan:
    """Length and rhythm of a run, in optimiser steps."""

    steps: int
    lr: float
    weight_decay: float
    step_every: int
    step_factor: float
    accumulate: int = 1
    eval_every: int = 500
    log_every: int = 50
    checkpoint_every: int = 500
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """The learning rate of step number `step` (1 is the first)."""
        return self.lr * self.step_factor ** ((step - 1) // self.step_every)


@dataclass(frozen=True)
class TaskLoss:
    """One task's unweighted loss on the predictions and targets of all tasks, a scalar.

    fabric: of several processes that see parts of one batch, or None. With it the loss counts for this
    process's share of the valid pixels: the mean over processes is the loss of the whole batch.
    """

    task: Task
    fabric: Fabric | None = None

    def __call__(self, preds: dict[str, Tensor], targets: dict[str, Target]) -> Tensor:
        prediction, target = preds[self.task.name], targets[self.task.name]
        loss = self.task.loss(prediction, target)
        if self.fabric is None:
            return loss
        return loss * valid_shares(self.fabric, [target], (prediction.shape[-2], prediction.shape[-1]))[0]


@dataclass(frozen=True)
class Objective:
    """What is learned: tasks and their weights in the training loss."""

    tasks: dict[str, Task]
    weights: dict[str, float]

    @property
    def losses(self) -> dict[str, TaskLoss]:
        """Each task's own, unweighted loss."""
        return self.shared(None)

    def shared(self, fabric: Fabric | None) -> dict[str, TaskLoss]:
        """The same losses, on a batch that the fabric's processes share."""
        return {name: TaskLoss(task, fabric) for name, task in self.tasks.items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of the tasks' losses."""
        return reduce(torch.add, (self.weights[name] * loss for name, loss in losses.items()))


@dataclass(frozen=True)
class Learner:
    """What is trained and how: network and optimizer as fabric.setup gave them."""

    fabric: Fabric
    network: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    sparsifier: Sparsifier


class Step(NamedTuple):
    """What one step showed. losses: of every task that the batch holds, and "total", {} where it holds none;
    mask: figures of a mask that moved."""

    number: int
    losses: dict[str, float]
    mask: dict[str, float]


def make_optimizer(network: nn.Module, plan: Plan) -> torch.optim.Adam:
    """Adam over every parameter, as the paper trains."""
    # fused: one pass over weights, gradients and moments, a tenth of the time on a CPU
    return torch.optim.Adam(network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True)


def train(learner: Learner, plan: Plan, batches: Iterable[Batch], start: int = 0) -> Iterator[Step]:
    """Take one step for every batch, the first is number start + 1; yields what it showed when it is done.

    ValueError where a loss is not finite, before it reaches the weights.
    """
    fabric = learner.fabric
    for number, batch in enumerate(batches, start + 1):
        learner.network.train()
        for group in learner.optimizer.param_groups:
            group["lr"] = plan.lr_at(number)
        _seed_step(plan.seed, number, fabric.global_rank)
        batch = fabric.to_device(batch)
        learner.optimizer.zero_grad(set_to_none=True)
        figures = torch.cat(training_step(learner, batch, plan.accumulate))
        if fabric.world_size > 1:
            figures = cast(Tensor, fabric.all_reduce(figures, reduce_op="mean"))
        losses = _present(tuple(learner.objective.tasks), figures.tolist())
        _require_finite(losses, number, plan, start)
        learner.sparsifier.mask_gradients()
        learner.optimizer.step()
        yield Step(number, losses, learner.sparsifier.after_step(number, batch))


def _present(tasks: tuple[str, ...], figures: list[float]) -> dict[str, float]:
    """The losses of the tasks that the batch holds, and their total; nothing where it holds none."""
    values, shares = figures[: len(tasks) + 1], figures[len(tasks) + 1 :]
    losses = {name: value for name, value, share in zip(tasks, values[:-1], shares, strict=True) if share}
    return losses | {"total": values[-1]} if losses else {}


def training_step(learner: Learner, batch: Batch, accumulate: int = 1) -> tuple[Tensor, Tensor]:
    """Forward and backward of one batch, its gradients accumulated over `accumulate` parts.

    Returns each task's loss and their weighted total, [tasks + 1], whose mean over processes is that of the
    whole batch; and what share of each task's valid pixels was here, [tasks], whose mean is 0 for a task
    without any in the whole batch, which has no part in the loss, else 1.
    """
    fabric, network, objective = learner.fabric, learner.network, learner.objective
    pieces = parts(batch, accumulate)
    shares: dict[str, Tensor] = {}
    figures = []
    for number, (image, targets) in enumerate(pieces):
        with fabric.no_backward_sync(cast(Any, network), enabled=number + 1 < len(pieces)):
            preds = network(image)
            for name in () if shares else objective.tasks:
                all_parts = [targets[name] for _, targets in pieces]
                shares[name] = valid_shares(fabric, all_parts, preds[name].shape[-2:])
            losses = {
                name: loss(preds, targets) * shares[name][number] for name, loss in objective.losses.items()
            }
            total = objective.total(losses)
            fabric.backward(total)
        figures.append(torch.stack([*losses.values(), total]).detach())
    return torch.stack(figures).sum(0), torch.stack([of.sum() for of in shares.values()])


def _seed_step(seed: int, step: int, rank: int) -> None:
    # one stream per step and process: dropout of step s is the same whenever step s is computed
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def _require_finite(losses: dict[str, float], step: int, plan: Plan, start: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            saved = max(start, (step - 1) // plan.checkpoint_every * plan.checkpoint_every)
            last = (
                f"the last good checkpoint is of step {saved}" if saved else "no checkpoint was written yet"
            )
            raise ValueError(
                f"the loss of '{name}' became {value} in step {step}; {last} (a smaller --lr may help)"
            )
