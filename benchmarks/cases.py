"""The networks, losses and batches that the benchmarks measure: the paper's, on made-up images.

Values of an image do not change how long it takes, so images are noise and targets random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.multitask import MultiTaskNet
from prune_utils.masks import prunable
from prune_utils.voters import Electorate
from tasks import builder
from tasks.base import Target, Task

Batch = tuple[torch.Tensor, dict[str, Target]]

CASES: dict[str, dict[str, Callable[[], Task]]] = {
    "nyuv2": {
        "seg": lambda: builder("seg")(40),
        "sn": lambda: builder("sn")(encoding="encoded"),
    },
    "taskonomy": {
        "seg": lambda: builder("seg")(17),
        "sn": lambda: builder("sn")(encoding="encoded"),
        "depth": lambda: builder("depth")(),
        "keypoint": lambda: builder("keypoint")(),
        "edge": lambda: builder("edge")(),
    },
}
WEIGHTS = {"nyuv2": (1.0, 20.0), "taskonomy": (1.0, 3.0, 2.0, 7.0, 7.0)}


@dataclass(frozen=True)
class Case:
    """A network with its tasks and some batches."""

    network: MultiTaskNet
    tasks: dict[str, Task]
    weights: dict[str, float]
    batches: list[Batch]

    @property
    def electorate(self) -> Electorate:
        losses = {
            name: lambda preds, targets, name=name, task=task: task.loss(preds[name], targets[name])
            for name, task in self.tasks.items()
        }
        owners = self.network.owners()
        return Electorate(losses, self.weights, {name: owners[name] for name in prunable(self.network)})

    def total(self, preds: dict[str, torch.Tensor], targets: dict[str, Target]) -> torch.Tensor:
        """The training loss."""
        losses = [
            self.weights[name] * task.loss(preds[name], targets[name]) for name, task in self.tasks.items()
        ]
        return torch.stack(losses).sum()


def make_case(name: str, crop: int, batch: int, count: int, width: float = 1.0) -> Case:
    """name: a key of CASES. count batches of `batch` images of crop x crop; always the same."""
    return case_of(
        {task: make() for task, make in CASES[name].items()}, WEIGHTS[name], crop, batch, count, width
    )


def many_tasks(count: int, crop: int, batch: int, width: float = 1.0) -> Case:
    """A network with `count` tasks of one channel, and one batch."""
    tasks = {f"task{number}": builder("depth")() for number in range(count)}
    return case_of(tasks, (1.0,) * count, crop, batch, 1, width)


def case_of(
    tasks: dict[str, Task], weights: tuple[float, ...], crop: int, batch: int, count: int, width: float
) -> Case:
    torch.manual_seed(0)
    channels = {name: task.channels for name, task in tasks.items()}
    network = MultiTaskNet(channels, width=width, channels_last=True)  # as the program on a CPU
    generator = torch.Generator().manual_seed(1)
    batches = [make_batch(tasks, crop, batch, generator) for _ in range(count)]
    return Case(network, tasks, dict(zip(tasks, weights, strict=True)), batches)


def make_batch(tasks: dict[str, Task], crop: int, batch: int, generator: torch.Generator) -> Batch:
    """Noise in the range of mean-free images; a tenth of the pixels invalid."""
    image = 60 * torch.randn(batch, 3, crop, crop, generator=generator)
    valid = torch.rand(batch, 1, crop, crop, generator=generator) > 0.1
    targets = {}
    for name, task in tasks.items():
        if name == "seg":
            value = torch.randint(task.channels, (batch, 1, crop, crop), generator=generator)
        else:
            value = torch.rand(batch, task.channels, crop, crop, generator=generator)
        targets[name] = Target(value * valid, valid)
    return image, targets
