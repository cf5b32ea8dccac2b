"""Learning curves: a run's CSV as a picture, loss and first measure of every task; several runs in one.

Reads what logger.py wrote and computes nothing.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.figures import COLOURS, INK, new_figure, plain_axes, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[int, float]]  # step, value
Curves = dict[tuple[str, str], Points]  # phase, name of the figure
STYLES = ("-", "--", "-.", ":")  # after as many runs as there are colours


def read_curves(path: Path) -> Curves:
    """Every figure of a run's CSV, in the order of the file; figures that are not finite and a last row that
    was cut off are left out. FileNotFoundError or ValueError names the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: launch_training.py writes it")
    curves: Curves = {}
    with Path(path).open(newline="", encoding="utf-8", errors="replace") as file:
        for row in list(csv.reader(file))[1:]:
            try:
                step, phase, name, value = int(row[0]), row[1], row[2], float(row[3])
            except (ValueError, IndexError):
                continue
            if math.isfinite(value):
                curves.setdefault((phase, name), []).append((step, value))
    if not curves:
        raise ValueError(f"{path} holds no figures of a run")
    return curves


def draw_curves(
    runs: Mapping[str, Curves], path: Path, protocol: str | Mapping[str, str], title: str = ""
) -> Path:
    """One column for each task: above its loss, below its first measure on the validation split.

    runs: title -> curves. With one run the training loss stands beside that of validation; several runs show
    validation alone, a colour each. protocol: of the measures, of all runs or by title.
    """
    tasks = _tasks(runs)
    protocols = dict.fromkeys(runs, protocol) if isinstance(protocol, str) else protocol
    figure = new_figure(max(3.6 * len(tasks), 6.5), 5.6)
    if title:
        figure.suptitle(title, color=INK, fontsize=11)
    grid = figure.subplots(2, len(tasks), squeeze=False, sharex=True)
    for column, task in enumerate(tasks):
        _losses(grid[0, column], runs, task)
        _measure(grid[1, column], runs, task, protocols)
        grid[0, column].set_title(task, color=INK, fontsize=11)
    keys, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        keys, labels, loc="outside lower center", ncols=min(len(keys), 4), frameon=False, labelcolor=INK
    )
    return write_figure(figure, path)


def _tasks(runs: Mapping[str, Curves]) -> list[str]:
    """The tasks that were validated, in the order of the files."""
    names = [name for curves in runs.values() for phase, name in curves if phase == "evaluate"]
    tasks = [name.removeprefix("loss/") for name in names if name.startswith("loss/")]
    if not tasks:
        raise ValueError("no run was evaluated on its validation split yet: there is nothing to draw")
    return [task for task in dict.fromkeys(tasks) if task != "total"]


def _losses(axes: Axes, runs: Mapping[str, Curves], task: str) -> None:
    for number, (name, curves) in enumerate(runs.items()):
        style = _style(number, curves.get(("evaluate", f"loss/{task}"), ()))
        if len(runs) == 1:
            train = curves.get(("train", task), [])
            if train:
                axes.plot(
                    *zip(*train, strict=True), color=COLOURS[7], linewidth=0.9, alpha=0.7, label="train"
                )
            name = "validation"
        _plot(axes, curves, f"loss/{task}", style | {"label": name})
    axes.set_ylabel("loss", color=INK)
    plain_axes(axes)


def _measure(axes: Axes, runs: Mapping[str, Curves], task: str, protocols: Mapping[str, str]) -> None:
    """The first measure of the task that the files hold, as they are in people's order."""
    starts = {run: f"{protocols[run]}/{task}/" for run in runs}
    known = (
        name.removeprefix(starts[run])
        for run, curves in runs.items()
        for _, name in curves
        if name.startswith(starts[run])
    )
    measure = next(known, "")
    for number, (run, curves) in enumerate(runs.items()):
        if measure:
            name = starts[run] + measure
            _plot(axes, curves, name, _style(number, curves.get(("evaluate", name), ())))
    axes.set_ylabel(measure.replace("_", " "), color=INK)
    axes.set_xlabel("step", color=INK)
    plain_axes(axes)


def _plot(axes: Axes, curves: Curves, name: str, style: dict[str, Any]) -> None:
    points = curves.get(("evaluate", name), [])
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _style(number: int, points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    return {
        "color": COLOURS[number % (len(COLOURS) - 1)],
        "linestyle": STYLES[number // (len(COLOURS) - 1) % len(STYLES)],
        "linewidth": 1.6,
        "marker": "o" if len(points) <= 30 else "",
        "markersize": 3.5,
    }
