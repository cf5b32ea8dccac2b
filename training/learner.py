"""What is trained and how: the objective, and everything that takes part in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from tasks.base import Target, Task

from .graphs import Recorded
from .sharing import valid_shares
from .sparsifier import Sparsifier
from .weighing import Weighing


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
    """What is trained and how: network and optimizer as fabric.setup gave them.

    owners: parameters, each with the tasks whose output depends on it; those left out are everybody's.
    recorded: the network's passes as CUDA graphs, where steps replay them.
    """

    fabric: Fabric
    network: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    sparsifier: Sparsifier
    weighing: Weighing = field(default_factory=Weighing)
    owners: Sequence[tuple[nn.Parameter, frozenset[str]]] = ()
    recorded: Recorded | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """By the names that the network itself has for them."""
        return dict(self.bare.named_parameters())

    @property
    def bare(self) -> nn.Module:
        """The network itself, without Fabric's and other wrappers around it."""
        return getattr(self.network, "module", self.network)

    def begin(self) -> None:
        """Before a step: a network that somebody has put into evaluation as a whole is in training again."""
        if not self.bare.training:
            self.network.train()
