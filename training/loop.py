"""The training loop: one run of one network, from step `start` to its end.

Everything random in step s follows from (seed, s), so a resumed run repeats nothing and misses nothing.
Devices, precision and processes are Lightning Fabric's; sparsity is the Sparsifier's. Leaves out epochs: data
is an endless stream that is cut into steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tasks.base import Target, Task

from .interrupt import Interrupted, StopRequest
from .record import Record
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
class Objective:
    """What is learned: tasks and their weights in the training loss."""

    tasks: dict[str, Task]
    weights: dict[str, float]

    def losses(self, predictions: dict[str, Tensor], targets: dict[str, Target]) -> dict[str, Tensor]:
        """Each task's own, unweighted loss."""
        return {name: task.loss(predictions[name], targets[name]) for name, task in self.tasks.items()}

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return sum(self.weights[name] * loss for name, loss in losses.items())


@dataclass(frozen=True)
class Learner:
    """What is trained and how: network and optimizer as fabric.setup gave them."""

    fabric: Fabric
    network: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    sparsifier: Sparsifier


@dataclass(frozen=True)
class Hooks:
    """What a run needs from outside. These read and write files; the loop itself touches none.

    batches(start, stop) -> the batches of steps start + 1 to stop. validate() -> figures to log, among them
    "loss/total". keep_best(step, loss) writes the best weights. save(step, best) writes a checkpoint.
    at_step(step) is told of every finished step.
    """

    batches: Callable[[int, int], Iterable[Batch]]
    validate: Callable[[], dict[str, float]]
    keep_best: Callable[[int, float], None]
    save: Callable[[int, float | None], object]
    at_step: Callable[[int], None]


def make_optimizer(network: nn.Module, plan: Plan) -> torch.optim.Adam:
    """Adam over every parameter, as the paper trains."""
    # fused: one pass over weights, gradients and moments, a tenth of the time on a CPU
    return torch.optim.Adam(network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True)


def _seed_step(seed: int, step: int, rank: int) -> None:
    # one stream per step and process: dropout of step s is the same whenever step s is computed
    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank)


def training_step(learner: Learner, batch: Batch, accumulate: int = 1) -> Tensor:
    """Forward and backward of one batch, its gradients accumulated over `accumulate` parts.

    Returns each task's loss and their weighted total, [tasks + 1], whose mean over processes is that of the
    whole batch.
    """
    fabric, network, objective = learner.fabric, learner.network, learner.objective
    pieces = parts(batch, accumulate)
    shares: dict[str, Tensor] = {}
    figures = []
    for number, (image, targets) in enumerate(pieces):
        with fabric.no_backward_sync(network, enabled=number + 1 < len(pieces)):
            predictions = network(image)
            for name in () if shares else objective.tasks:
                all_parts = [targets[name] for _, targets in pieces]
                shares[name] = valid_shares(fabric, all_parts, predictions[name].shape[-2:])
            losses = objective.losses(predictions, targets)
            losses = {name: loss * shares[name][number] for name, loss in losses.items()}
            total = objective.total(losses)
            fabric.backward(total)
        figures.append(torch.stack([*losses.values(), total]).detach())
    return torch.stack(figures).sum(0)


def _agreed(fabric: Fabric, figures: Tensor, signal: int | None) -> tuple[list[float], int | None]:
    """The figures averaged over the processes, and the signal that any of them received."""
    if fabric.world_size == 1:
        return figures.tolist(), signal
    signals = fabric.to_device(torch.tensor(signal or 0))
    figures = fabric.all_reduce(figures, reduce_op="mean")
    return figures.tolist(), int(fabric.all_reduce(signals, reduce_op="max")) or None


def _require_finite(figures: dict[str, float], step: int, saved: int | None) -> None:
    for name, value in figures.items():
        if not math.isfinite(value):
            last = (
                f"the last good checkpoint is of step {saved}" if saved else "no checkpoint was written yet"
            )
            raise ValueError(
                f"the loss of '{name}' became {value} in step {step}; {last} (a smaller --lr may help)"
            )


def train(
    learner: Learner, plan: Plan, hooks: Hooks, record: Record, start: int = 0, best: float | None = None
) -> None:
    """Train from step `start` (0 = fresh) to plan.steps. best: the best validation loss of the steps before.

    Raises Interrupted after a signal, with a checkpoint written; ValueError where a loss is not finite.
    """
    fabric, saved = learner.fabric, start or None
    with StopRequest() as stop:
        for step, batch in enumerate(hooks.batches(start, plan.steps), start + 1):
            learner.network.train()
            for group in learner.optimizer.param_groups:
                group["lr"] = plan.lr_at(step)
            _seed_step(plan.seed, step, fabric.global_rank)
            batch = fabric.to_device(batch)
            learner.optimizer.zero_grad(set_to_none=True)
            values, signal = _agreed(fabric, training_step(learner, batch, plan.accumulate), stop.number)
            figures = dict(zip((*learner.objective.tasks, "total"), values, strict=True))
            _require_finite(figures, step, saved)
            learner.sparsifier.mask_gradients()
            learner.optimizer.step()
            record.add(step, "mask", learner.sparsifier.after_step(step, batch))
            hooks.at_step(step)
            if step % plan.log_every == 0 or step == plan.steps:
                record.add(step, "train", figures | {"lr": plan.lr_at(step)})
            record.tick(step, {"loss": figures["total"]})
            if step % plan.eval_every == 0 or step == plan.steps:
                best = _evaluate(hooks, record, step, best)
            if step % plan.checkpoint_every == 0 or signal:
                hooks.save(step, best)
                saved = step
            if signal and step < plan.steps:
                fabric.barrier()  # nobody leaves before the checkpoint is written
                raise Interrupted(signal, f"stopped after step {step}; --resume continues from there")


def _evaluate(hooks: Hooks, record: Record, step: int, best: float | None) -> float:
    """Validate, keep the best weights. The first evaluation always counts, a NaN never wins afterwards."""
    figures = hooks.validate()
    record.add(step, "evaluate", figures)
    loss = figures["loss/total"]
    loss = loss if math.isfinite(loss) else math.inf
    if best is not None and loss >= best:
        return best
    hooks.keep_best(step, loss)
    return loss
