"""Scores of a network over a loader: training losses, and all metrics in both protocols, in one pass.

Memory does not grow with the number of images; several processes, each with its own whole batches, give the
scores of one. Leaves out files: scores are plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from common import constant
from common.names import PROTOCOLS
from common.text import table
from tasks.averages import Averages
from tasks.base import Direction, Target, Task, resize_nearest
from tasks.sums import Collector, ImageSums

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
    constants: bool = False,
) -> Scores:
    """Scores of the model over all batches of the loader (of all processes' loaders).

    fabric: moves the batches and sets the precision of the forward pass; without one the batches go where the
        model's parameters are.
    loss_weights: task -> its weight in the total loss; default 1 each.
    progress: wraps the loader, for example functools.partial(tqdm, desc="evaluation").
    constants: also what the best constant answers score on the same targets, found in the same pass.

    Returns {"loss": {task: float, ..., "total": float}, "metrics": {task: {"paper": {...}, "metric": {...}}},
    "counts": {task: {name: int}}, "images": int, "task_images": {task: images with a valid pixel}, "batches":
    int}; with `constants` also "constant", formed as "metrics", of the tasks that know theirs. Losses are
    means of batches weighted by batch size. A task without any valid pixel has nan scores and no part in the
    total. Raises ValueError if there is no batch.
    """
    device, move = mover(model, fabric)
    metrics = {name: task.metric().to(device) for name, task in tasks.items()}
    blind = {name: task.constant().to(device) for name, task in tasks.items() if constants and task.constant}
    losses = Losses(loss_weights or dict.fromkeys(tasks, 1.0), tuple(tasks)).to(device)
    with evaluating(model):
        for batch in loader if progress is None else progress(loader):
            image, targets = move(batch)
            with precision(fabric):
                predictions = model(image)
            losses.update(tasks, predictions, targets)
            for name, metric in metrics.items():
                metric.update(predictions[name], targets[name])
            for name, metric in blind.items():
                metric.update(targets[name])
    for metric in (losses, *metrics.values(), *blind.values()):
        metric.add_up()
    scores = losses.compute()
    scores["metrics"] = {name: metric.compute() for name, metric in metrics.items()}
    if constants:
        scores["constant"] = {name: metric.compute() for name, metric in blind.items()}
    scores["counts"] = {
        name: metric.counts() if isinstance(metric, Averages) else {} for name, metric in metrics.items()
    }
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
    labelled: Tensor  # images with a valid pixel, by task

    def __init__(self, weights: dict[str, float], names: Sequence[str]) -> None:
        super().__init__(names)
        self.weights = [weights[name] for name in names]
        for state in ("images", "batches"):
            self.add_state(state, torch.zeros((), dtype=torch.int64))
        self.add_state("labelled", torch.zeros(len(self.names), dtype=torch.int64))

    def update(
        self, tasks: dict[str, Task], predictions: dict[str, Tensor], targets: dict[str, Target]
    ) -> None:
        """predictions [N, channels, h, w] and targets of one batch, by task name."""
        losses, seen = [], []
        for name in self.names:
            losses.append(tasks[name].loss(predictions[name], targets[name]))
            seen.append(resize_nearest(targets[name].valid, predictions[name].shape[-2:]).any())
        known = [targets[name].valid.flatten(1).any(1).sum() for name in self.names]
        self.labelled = self.labelled + torch.stack(known)
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
            "task_images": dict(zip(self.names, self.labelled.tolist(), strict=True)),
            "batches": int(self.batches),
        }


def figures(scores: Scores) -> dict[str, float]:
    """The scores as one flat table for logs: "loss/total", "loss/seg", "paper/seg/mIoU", ..."""
    flat = {f"loss/{name}": value for name, value in scores["loss"].items()}
    for task, protocols in scores["metrics"].items():
        for protocol, values in protocols.items():
            flat.update({f"{protocol}/{task}/{name}": value for name, value in values.items()})
    return flat


def headline(scores: Scores, tasks: dict[str, Task], protocol: str) -> dict[str, str]:
    """The first measure of every task, for the little room beside a progress bar: {"seg mIoU": "23.10"}."""
    shown = {}
    for name, task in tasks.items():
        measure, (unit, _) = next(iter(task.directions.items()))
        shown[f"{name} {measure}"] = number(scores["metrics"][name][protocol][measure], unit)
    return shown


def number(value: float, unit: str) -> str:
    """A score for people: two decimals in percent and degrees, four digits otherwise, "-" for nan."""
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if unit in ("%", "deg") else f"{value:.4g}"


def format_scores(scores: Scores, tasks: dict[str, Task], notes: Sequence[str] = ()) -> str:
    """The scores as a table for a terminal, both protocols, and beside each the best constant's.

    An arrow says whether higher or lower is better, a mark what does not beat the constant. notes: lines
    under the table, such as the protocol that the network was trained in and what angles are between.
    """
    blind = scores.get("constant", {})
    beside = ("constant",) if blind else ()
    rows: list[tuple[str, ...]] = []
    for task in tasks.values():
        for name, direction in task.directions.items():
            cells: list[str] = []
            for protocol in PROTOCOLS:
                values = scores["metrics"][task.name][protocol]
                base = blind.get(task.name, {}).get(protocol, {}).get(name, math.nan)
                cells += _cells(values[name], base, direction)[: 1 + len(beside)]
            title = task.name if name == next(iter(task.directions)) else ""
            rows.append((title, name, "↑" if direction.larger_is_better else "↓", *cells, direction.unit))
    for place, (name, loss) in enumerate(scores["loss"].items()):
        blank = [""] * (len(rows[0]) - 4)
        rows.append(("" if place else "loss", name, "↓", number(loss, ""), *blank))
    header = (
        "task",
        "measure",
        "",
        *(word for protocol in PROTOCOLS for word in (protocol, *beside)),
        "unit",
    )
    images = f"images: {scores['images']}"
    some = [f"{name} {count}" for name, count in scores["task_images"].items() if count < scores["images"]]
    images += f" (with a target: {', '.join(some)})" if some else ""
    lines = [table(rows, header, rule=False), f"{images}, batches: {scores['batches']}"]
    lines += _counted(scores.get("counts", {}))
    if any(constant.MARK in cell for row in rows for cell in row):
        lines.append(constant.NOTE)
    return "\n".join([*lines, *notes])


def _cells(value: float, base: float, direction: Direction) -> tuple[str, str]:
    """A score, marked where it does not beat the constant, and the constant's."""
    mark = "" if constant.beats(value, base, direction.larger_is_better) else constant.MARK
    return number(value, direction.unit) + mark, number(base, direction.unit)


def _counted(found: dict[str, dict[str, int]]) -> list[str]:
    """`seg: classes_hit 7, classes 13`, a line for each task that has counts."""
    return [
        f"{task}: {', '.join(f'{name} {count}' for name, count in values.items())}"
        for task, values in found.items()
        if values
    ]


def image_sums(
    model: nn.Module,
    tasks: dict[str, Task],
    loader: Iterable[Batch],
    *,
    fabric: Fabric | None = None,
    progress: Callable[[Iterable[Batch]], Iterable[Batch]] | None = None,
) -> dict[str, ImageSums]:
    """Task -> what each image of the loader adds to its metric, in the loader's order; of one process.

    fabric, progress: as `evaluate` takes them. Memory grows with the images: 72 kB each for normals.
    Raises ValueError if there is no batch.
    """
    device, move = mover(model, fabric)
    collectors = {name: Collector(task, device) for name, task in tasks.items()}
    with evaluating(model):
        for batch in loader if progress is None else progress(loader):
            image, targets = move(batch)
            with precision(fabric):
                predictions = model(image)
            for name, collector in collectors.items():
                collector.update(predictions[name], targets[name])
    return {name: collector.sums for name, collector in collectors.items()}
