"""Figures of mask agreement: pairs of tasks by depth, densities by task, agreement against sparsity.

They draw what agreement files hold and compute nothing. The bar figure is in bars.py; colours and axes are
those of prune_utils/picture.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from prune_utils.picture import COLOURS, INK, new_figure, plain_axes, short_names

WIDTH = 12.0  # inches
MARKERS = "osD^vPX*"


def read_result(path: str | Path) -> dict:
    """An agreement file as iou_analysis.py writes it; ValueError for another file."""
    result = json.loads(Path(path).read_text())
    if not isinstance(result, dict) or "curves" not in result or "layers" not in result:
        raise ValueError(f"{path} is no agreement file: iou_analysis.py writes them")
    return result


def pair_matrices(result: Mapping, curve: int = 0):
    """Agreement of every pair of tasks, one matrix for each stage of the trunk and one for all of it."""
    asked = result["curves"][curve]
    pairs, tasks = asked["pairs"], asked["pairs"]["tasks"]
    panels = [*pairs["stages"].items(), ("whole trunk", pairs["overall"])]
    side = max(1.5, 0.52 * len(tasks))
    columns = min(len(panels), 6 if len(tasks) < 4 else 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(min(WIDTH, columns * (side + 1.2)), rows * (side + 1.3) + 0.6)
    figure.suptitle(
        f"{result['dataset']}: agreement of every pair of tasks, %, each keeps {asked['keep_ratio']:.1%}",
        color=INK, fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    axes_list = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (stage, matrix) in zip(axes_list, panels, strict=False):
        _matrix(axes, stage.replace("stages.", "stage "), matrix, tasks)
    for axes in list(axes_list):
        axes.set_visible(False)
    return figure


def _matrix(axes, title: str, matrix: list[list[float | None]], tasks: Sequence[str]) -> None:
    shades = [[float("nan") if cell is None else 100 * cell for cell in row] for row in matrix]
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=180)  # the darkest shade still carries dark text
    for down, row in enumerate(matrix):
        for right, cell in enumerate(row):
            text = "-" if cell is None else f"{100 * cell:.0f}"
            axes.text(right, down, text, ha="center", va="center", color="black", fontsize=9)
    axes.set_xticks(range(len(tasks)), tasks, rotation=90)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_title(title, color=INK, fontsize=10.5)
    axes.tick_params(colors=INK, labelcolor=INK, length=0)


def densities(result: Mapping, curve: int = 0):
    """Share of every layer that each task keeps: the shared layers as lines, its own layers beside them."""
    asked, tasks = result["curves"][curve], result["tasks"]
    shared = [row["name"] for row in result["layers"]]
    own = {task: [name for name in asked["density"][task] if name not in shared] for task in tasks}
    tail = max(len(names) for names in own.values())
    ticks = [*short_names(shared), *(short_names(own[tasks[0]]) if tail else [])]
    figure = new_figure(WIDTH, 3.8 + 0.062 * max(map(len, ticks)))
    axes = figure.add_subplot()
    for index, task in enumerate(tasks):
        density = asked["density"][task]
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        for names, start, label in ((shared, 0, task), (own[task], len(shared), None)):
            points = [(start + i, 100 * density[n]) for i, n in enumerate(names) if density.get(n)]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, markersize=5, linewidth=1.4, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=8)
    if tail:
        axes.axvline(len(shared) - 0.5, color=INK, linewidth=1)
        for text, place, side in (("shared ", -0.5, "right"), (" each task's own", -0.5, "left")):
            axes.text(
                len(shared) + place, 1.01, text, ha=side, va="bottom", color=INK, fontsize=9,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.set_ylabel("kept weights of the layer, %", color=INK)
    axes.set_title(
        f"{result['dataset']}: what each task keeps, {asked['keep_ratio']:.1%} of its weights in all",
        color=INK, fontsize=11.5, loc="left", pad=20,
    )  # fmt: skip
    axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plain_axes(axes)
    return figure


def against_sparsity(results: Sequence[Mapping]):
    """Overall agreement against the sparsity of the network, a line for each data set."""
    figure = new_figure(WIDTH * 0.75, 4.6)
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        curves = sorted(result["curves"], key=lambda curve: curve["sparsity"])
        x = [100 * curve["sparsity"] for curve in curves]
        y, low, high = ([100 * curve["overall"][key] for curve in curves] for key in ("mean", "low", "high"))
        style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        axes.plot(x, y, label=f"{result['dataset']}, {len(result['tasks'])} tasks", linewidth=1.8, **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
        chance = [100 * curve["chance"] for curve in curves]
        label = f"{result['dataset']}, random masks"
        axes.plot(x, chance, label=label, linewidth=1.2, linestyle=":", **style, markerfacecolor="white")
    axes.set_ylim(0, 100)
    axes.set_xlabel("sparsity of the network that keeps what any task keeps, %", color=INK)
    axes.set_ylabel("overall agreement, %", color=INK)
    axes.set_title("Agreement against sparsity (band: all seeds)", color=INK, fontsize=11.5, loc="left")
    axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    plain_axes(axes)
    return figure
