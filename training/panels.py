"""Pictures of what a network sees and says: one PNG an image, targets above the network's predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor, nn

from common.figures import new_figure
from common.names import MEAN_BGR
from tasks.base import Target, Task, resize_nearest
from training.evaluate import Batch, evaluating, mover, number, precision

CELL = 320  # pixels: pictures are magnified by the whole number that brings them nearest to this width
DPI = 100
GAP = 12  # pixels
LEGEND = "above: targets,\ngrey where there is none\n\nbelow: predictions,\nscored on this image alone"


def write_panels(
    model: nn.Module,
    tasks: dict[str, Task],
    loader: Iterable[Batch],
    folder: str | Path,
    count: int,
    *,
    fabric: Fabric | None = None,
    caption: str = "",
) -> list[Path]:
    """Writes 0000.png, 0001.png, ... for the first `count` images of the loader; the paths that were written.

    Each shows the input, and for every task the target above the prediction, with the prediction's first
    metric on this image ("metric" protocol). A target's invalid pixels are grey. Makes the folder; what an
    earlier call has written there goes.
    caption: stands below the input, such as where the data come from.
    """
    folder = Path(folder)
    paths: list[Path] = []
    if count <= 0:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    for earlier in folder.glob("[0-9][0-9][0-9][0-9].png"):
        earlier.unlink()
    _, move = mover(model, fabric)
    with evaluating(model):
        for batch in loader:
            image, targets = move(batch)
            with precision(fabric):
                predictions = model(image)
            for index in range(min(len(image), count - len(paths))):
                one = slice(index, index + 1)
                mine = {name: Target(*(part[one] for part in target)) for name, target in targets.items()}
                guesses = {name: prediction[one] for name, prediction in predictions.items()}
                paths.append(folder / f"{len(paths):04d}.png")
                draw(input_picture(image[index]), columns(tasks, mine, guesses), paths[-1], caption)
            if len(paths) == count:
                break
    return paths


class FirstBatch:
    """Keeps the first batch that passes by."""

    batch: Batch | None = None

    def of(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The loader's batches, all of them."""
        for batch in loader:
            self.batch = self.batch or batch
            yield batch


def strip(
    model: nn.Module, tasks: dict[str, Task], batch: Batch, *, fabric: Fabric | None = None
) -> np.ndarray:
    """The first image of a batch as one picture without words, uint8 RGB [2 H, (1 + tasks) W, 3]: the input
    with nothing below it, then for each task its target above the prediction."""
    _, move = mover(model, fabric)
    image, targets = move((batch[0][:1], {n: Target(t.value[:1], t.valid[:1]) for n, t in batch[1].items()}))
    with evaluating(model), precision(fabric):
        predictions = model(image)
    shown = input_picture(image[0])
    columns = [np.vstack([shown, np.full_like(shown, 255)])]
    for name, task in tasks.items():
        known = Target(targets[name].value[0], targets[name].valid[0])
        guess = resize_nearest(task.decode(predictions[name])[0], known.value.shape[-2:])
        columns.append(np.vstack([task.picture(*known, like=known), task.picture(guess, None, like=known)]))
    return np.hstack(columns)


def input_picture(image: Tensor) -> np.ndarray:
    """A mean-free BGR image [3, H, W] as uint8 RGB [H, W, 3]."""
    bgr = image.float().permute(1, 2, 0).cpu().numpy() + MEAN_BGR
    return np.clip(np.rint(bgr[..., ::-1]), 0, 255).astype(np.uint8)


def columns(
    tasks: dict[str, Task], targets: dict[str, Target], predictions: dict[str, Tensor]
) -> list[list[tuple[str, np.ndarray]]]:
    """For each task its titled pictures, target and prediction, of a batch of one image."""
    result = []
    for name, task in tasks.items():
        value, valid = targets[name].value[0], targets[name].valid[0]
        guess = resize_nearest(task.decode(predictions[name])[0], value.shape[-2:])
        metric = task.metric().to(value.device)
        metric.update(predictions[name], targets[name])
        measure, (unit, _) = next(iter(task.directions.items()))
        score = f"{measure} {number(metric.compute()['metric'][measure], unit)} {unit}".rstrip()
        known = Target(value, valid)
        pictures = [task.picture(value, valid, like=known), task.picture(guess, None, like=known)]
        result.append([(f"{name}: target", pictures[0]), (f"{name}: prediction\n{score}", pictures[1])])
    return result


def draw(image: np.ndarray, tasks: list[list[tuple[str, np.ndarray]]], path: Path, caption: str = "") -> None:
    """Writes one panel: the image [H, W, 3], the caption and a column of two pictures for each task."""
    layout = Layout.of(image.shape[0], image.shape[1], 1 + len(tasks))
    figure = new_figure(layout.size[0] / DPI, layout.size[1] / DPI, DPI, arrange=False)
    for column, pictures in enumerate([[("input", image)], *tasks]):
        for row, (title, picture) in enumerate(pictures):
            axes = figure.add_axes(layout.box(column, row))
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            axes.set_title(title, fontsize=layout.font, pad=layout.font / 3)
    left, bottom, width, height = layout.box(0, 1)
    place: dict[str, Any] = {"x": left + width / 2, "y": bottom + height / 2, "ha": "center", "va": "center"}
    legend = LEGEND + "\n\n" + fill(caption, 32) if caption else LEGEND
    figure.text(s=legend, fontsize=layout.font, color="dimgrey", linespacing=1.6, **place)
    figure.savefig(path, dpi=DPI)


@dataclass(frozen=True)
class Layout:
    """Where the pictures of a panel are, in whole pixels, so that they are drawn pixel for pixel."""

    cell: tuple[int, int]  # width, height of a picture
    title: int
    font: float  # points
    size: tuple[int, int]  # width, height of the panel

    @classmethod
    def of(cls, height: int, width: int, columns: int) -> Layout:
        """For pictures of this size, magnified by a whole number."""
        zoom = max(1, round(CELL / width))
        cell = (zoom * width, zoom * height)
        font = 11 * max(1.0, cell[0] / 400)
        title = round(4.2 * font)
        size = (GAP + columns * (cell[0] + GAP), 2 * (title + cell[1]) + GAP)
        return cls(cell, title, font, size)

    def box(self, column: int, row: int) -> tuple[float, float, float, float]:
        """left, bottom, width, height of a picture as matplotlib wants them, in shares of the panel."""
        (width, height), (total_width, total_height) = self.cell, self.size
        left = GAP + column * (width + GAP)
        bottom = total_height - (row + 1) * (self.title + height)
        return left / total_width, bottom / total_height, width / total_width, height / total_height
