"""Pictures of what a network sees and says: one PNG an image, targets above the network's predictions.

matplotlib's object interface, so that no display and no global state is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor, nn

from tasks.base import Target, Task, resize_nearest
from training.evaluate import Batch, evaluating, mover, number

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)  # what the loaders subtract from images
CELL = 320  # pixels: pictures are magnified by the whole number that brings them nearest to this width
DPI = 100
GAP, TITLE = 12, 46  # pixels


def write_panels(
    model: nn.Module,
    tasks: dict[str, Task],
    loader: Iterable[Batch],
    folder: str | Path,
    count: int,
    *,
    fabric: Fabric | None = None,
) -> list[Path]:
    """Writes 0000.png, 0001.png, ... for the first `count` images of the loader; the paths that were written.

    Each shows the input, and for every task the target above the prediction, with the prediction's first
    metric on this image ("metric" protocol). A target's invalid pixels are grey. Makes the folder.
    """
    folder, paths = Path(folder), []
    if count <= 0:
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    _, move = mover(model, fabric)
    with evaluating(model):
        for batch in loader:
            image, targets = move(batch)
            predictions = model(image)
            for index in range(min(len(image), count - len(paths))):
                one = slice(index, index + 1)
                mine = {name: Target(*(part[one] for part in target)) for name, target in targets.items()}
                guesses = {name: prediction[one] for name, prediction in predictions.items()}
                paths.append(folder / f"{len(paths):04d}.png")
                draw(input_picture(image[index]), columns(tasks, mine, guesses), paths[-1])
            if len(paths) == count:
                break
    return paths


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


def draw(image: np.ndarray, tasks: list[list[tuple[str, np.ndarray]]], path: Path) -> None:
    """Writes one panel: the image [H, W, 3] and a column of two pictures for each task."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    zoom = max(1, round(CELL / width))
    cell_width, cell_height = zoom * width, zoom * height
    total_width = GAP + (1 + len(tasks)) * (cell_width + GAP)
    total_height = 2 * (TITLE + cell_height) + GAP
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    for column, pictures in enumerate([[("input", image)], *tasks]):
        left = GAP + column * (cell_width + GAP)
        for row, (title, picture) in enumerate(pictures):
            bottom = total_height - (row + 1) * (TITLE + cell_height)
            place = (left, bottom, cell_width, cell_height)
            box = np.divide(place, (total_width, total_height) * 2)
            axes = figure.add_axes(box)
            axes.imshow(picture, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            axes.set_title(title, fontsize=11, pad=4)
    figure.savefig(path, dpi=DPI)
