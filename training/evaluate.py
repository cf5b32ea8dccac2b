"""Scores of a network over a loader: training losses, and all metrics in both protocols, in one pass.

Memory does not grow with the number of images; several processes, each with its own whole batches, give the
scores of one. Leaves out files: scores are plain numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from common.names import PROTOCOLS
from common.text import table
from tasks.averages import Averages
from tasks.base import Target, Task, resize_nearest

Batch = tuple[Tensor, dict[str, Target]]
Scores = dict[str, Any]


def evaluate(
    model: nn.Module,
    tasks: dict[str, Task],
    loader: Iterable[Batch],
    *,
    fabric: Fabric | None = None,
    loss_weights: dict[str, float] | None = None,
    progress: Callable[[Iterable[Batch]], Iterable[Batch]] | None = None,
) -> Scores:
    """Scores of the model over all batches of the loader (of all processes' loaders).

    fabric: moves the batches and sets the precision of the forward pass; without one the batches go where the
        model's parameters are.
    loss_weights: task -> its weight in the total loss; default 1 each.
    progress: wraps the loader, for example functools.partial(tqdm, desc="evaluation").

    Returns {"loss": {task: float, ..., "total": float}, "metrics": {task: {"paper": {...}, "metric": {...}}},
    "images": int, "batches": int}. Losses are means of batches weighted by batch size. A task without any
    valid pixel has nan scores and no part in the total. Raises ValueError if the loader has no batch.
    """
    device, move = mover(model, fabric)
    metrics = {name: task.metric().to(device) for name, task in tasks.items()}
    losses = Losses(loss_weights or dict.fromkeys(tasks, 1.0), tuple(tasks)).to(device)
    with evaluating(model):
        for batch in loader if progress is None else progress(loader):
            image, targets = move(batch)
            with precision(fabric):
                predictions = model(image)
            losses.update(tasks, predictions, targets)
            for name, metric in metrics.items():
                metric.update(predictions[name], targets[name])
    with warnings.catch_warnings():
        # a process may be dealt no batch: its zeros are right
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric", category=UserWarning)
        scores = losses.compute()
        scores["metrics"] = {name: metric.compute() for name, metric in metrics.items()}
    if not scores["batches"]:
        raise ValueError("there is nothing to evaluate: the loader has no batch")
    return scores


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def precision(fabric: Fabric | None) -> AbstractContextManager:
    """The fabric's precision inside, such as bfloat16 products; nothing changes without a fabric."""
    return nullcontext() if fabric is None else fabric.autocast()


def mover(model: nn.Module, fabric: Fabric | None = None) -> tuple[torch.device, Callable[[Batch], Batch]]:
    """The device to work on, the fabric's or else that of the model, and what moves a batch there."""
    if fabric is not None:
        return fabric.device, fabric.to_device
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def move(batch: Batch) -> Batch:
        image, targets = batch
        moved = {name: Target(*(part.to(device) for part in target)) for name, target in targets.items()}
        return image.to(device), moved

    return device, move


class Losses(Averages):
    """Mean training losses over the batches that had a valid pixel, weighted by batch size, and their sum.

    A NaN loss stays one; a task without any valid pixel is nan and not in the sum.
    """

    images: Tensor  # 0-d counts, which add_state makes
    batches: Tensor

    def __init__(self, weights: dict[str, float], names: Sequence[str]) -> None:
        super().__init__(names)
        self.weights = [weights[name] for name in names]
        for state in ("images", "batches"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self, tasks: dict[str, Task], predictions: dict[str, Tensor], targets: dict[str, Target]
    ) -> None:
        """predictions [N, channels, h, w] and targets of one batch, by task name."""
        losses, seen = [], []
        for name in self.names:
            losses.append(tasks[name].loss(predictions[name], targets[name]))
            seen.append(resize_nearest(targets[name].valid, predictions[name].shape[-2:]).any())
        images = len(predictions[self.names[0]])
        self.add(losses, seen, images)
        self.images = self.images + images
        self.batches = self.batches + 1

    def compute(self) -> Scores:
        loss = self.averages()["paper"]
        seen = [weight > 0 for weight in self.batch_weight.tolist()]
        parts = [
            weight * mean
            for weight, mean, known in zip(self.weights, loss.values(), seen, strict=True)
            if known
        ]
        loss["total"] = sum(parts) if parts else math.nan
        return {
            "loss": loss,
            "images": int(self.images),
            "batches": int(self.batches),
        }


def figures(scores: Scores) -> dict[str, float]:
    """The scores as one flat table for logs: "loss/total", "loss/seg", "paper/seg/mIoU", ..."""
    flat = {f"loss/{name}": value for name, value in scores["loss"].items()}
    for task, protocols in scores["metrics"].items():
        for protocol, values in protocols.items():
            flat.update({f"{protocol}/{task}/{name}": value for name, value in values.items()})
    return flat


def number(value: float, unit: str) -> str:
    """A score for people: two decimals in percent and degrees, four digits otherwise, "-" for nan."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if unit in ("%", "deg") else f"{value:.4g}"


def format_scores(scores: Scores, tasks: dict[str, Task], notes: Sequence[str] = ()) -> str:
    """The scores as a table for a terminal, both protocols side by side.

    An arrow says whether higher or lower is better. notes: lines under the table, such as the protocol that
    the network was trained in and what its angles are measured between.
    """
    rows: list[tuple[str, ...]] = []
    for task in tasks.values():
        for name, (unit, larger_is_better) in task.directions.items():
            values = [number(scores["metrics"][task.name][protocol][name], unit) for protocol in PROTOCOLS]
            title = task.name if name == next(iter(task.directions)) else ""
            rows.append((title, name, "↑" if larger_is_better else "↓", *values, unit))
    for place, (name, loss) in enumerate(scores["loss"].items()):
        rows.append(("" if place else "loss", name, "↓", number(loss, ""), "", ""))
    header = ("task", "measure", "", *PROTOCOLS, "unit")
    return "\n".join(
        [table(rows, header, rule=False), f"images: {scores['images']}, batches: {scores['batches']}", *notes]
    )
