"""The training loop: the steps of one run of one network, from step `start` to its end.

Everything random in step s follows from (seed, s), so a resumed run repeats nothing and misses nothing.
Devices, precision and processes are Lightning Fabric's; sparsity is the Sparsifier's. Leaves out epochs (data
is an endless stream that is cut into steps), evaluation and files: who takes the steps does that in between.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .learner import Learner
from .sharing import Batch
from .step import losses_of, seed_step, training_step


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


class Diverged(ValueError):
    """Training came to a loss or a weight that is not finite, in one sentence."""


class Step(NamedTuple):
    """What one step showed. losses: of every task that the batch holds, and "total", {} where it holds none;
    mask: figures of a mask that moved; tasks: of the tasks' gradients and weights, {} where nobody looked."""

    number: int
    losses: dict[str, float]
    mask: dict[str, float]
    tasks: dict[str, float]


def make_optimizer(network: nn.Module, plan: Plan) -> torch.optim.Adam:
    """Adam over every parameter, as the paper trains, with the state that it makes at a first step.

    So a checkpoint is whole where some parameters have had none yet, because their task was in no batch.
    """
    # fused: one pass over weights, gradients and moments, a tenth of the time on a CPU
    adam = torch.optim.Adam(network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    for parameter in network.parameters():
        moments = (torch.zeros_like(parameter, requires_grad=False) for _ in range(2))
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        adam.state[parameter] = dict(zip(("step", "exp_avg", "exp_avg_sq"), (step, *moments), strict=True))
    return adam


def train(learner: Learner, plan: Plan, batches: Iterable[Batch], start: int = 0) -> Iterator[Step]:
    """Take one step for every batch, the first is number start + 1; yields what it showed when it is done.

    Diverged where a loss is not finite, before it reaches the weights.
    """
    fabric = learner.fabric
    learner.network.train()
    for number, batch in enumerate(batches, start + 1):
        learner.begin()
        for group in learner.optimizer.param_groups:
            group["lr"] = plan.lr_at(number)
        seed_step(plan.seed, number, fabric.global_rank)
        batch = fabric.to_device(batch)
        learner.optimizer.zero_grad(set_to_none=True)
        figures = torch.cat(training_step(learner, batch, plan.accumulate, number, plan.seed))
        if fabric.world_size > 1:
            figures = cast(Tensor, fabric.all_reduce(figures, reduce_op="mean"))
        losses = _present(tuple(learner.objective.tasks), figures.tolist())
        _require_finite(losses, number, plan, start)
        _leave_out(learner, losses)
        learner.sparsifier.mask_gradients()
        if losses:
            learner.optimizer.step()
        moved = learner.sparsifier.after_step(number, batch)
        _look_again(learner, batch, plan, number)
        yield Step(number, losses, moved, dict(learner.weighing.figures))


def _look_again(learner: Learner, batch: Batch, plan: Plan, number: int) -> None:
    """Tell a rule that wants to know what the step did to the losses, where it weighed them."""
    rule = learner.weighing.rule
    if rule is not None and rule.looks_again and learner.weighing.weighed:
        seed_step(plan.seed, number, learner.fabric.global_rank)
        rule.look_again(losses_of(learner, batch, plan.accumulate))


def _present(tasks: tuple[str, ...], figures: list[float]) -> dict[str, float]:
    """The losses of the tasks that the batch holds, and their total; nothing where it holds none."""
    values, shares = figures[: len(tasks) + 1], figures[len(tasks) + 1 :]
    losses = {name: value for name, value, share in zip(tasks, values[:-1], shares, strict=True) if share}
    return losses | {"total": values[-1]} if losses else {}


def _leave_out(learner: Learner, present: Container[str]) -> None:
    """Take the gradients, all 0, from parameters of absent tasks alone, which momentum would move else."""
    for parameter, owners in learner.owners:
        if not any(task in present for task in owners):
            parameter.grad = None


def _require_finite(losses: dict[str, float], step: int, plan: Plan, start: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise Diverged(
                f"the loss of '{name}' became {value} in step {step}; {last_good(plan, step, start)} "
                "(a smaller --lr may help)"
            )


def last_good(plan: Plan, step: int, start: int) -> str:
    """Which checkpoint was the last before this step of a run that began, or was resumed, after `start`."""
    saved = max(start, (step - 1) // plan.checkpoint_every * plan.checkpoint_every)
    return f"the last good checkpoint is of step {saved}" if saved else "no checkpoint was written yet"
