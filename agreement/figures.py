"""Figures of mask agreement: bars by layer as in the paper's figure, pairs of tasks by depth, densities by
task, agreement against sparsity.

They draw what agreement files hold, or the plain text of the published code, and compute nothing.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.figures import COLOURS, DIM, INK, WIDTH, new_figure, plain_axes, short_names
from common.text import percent

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW = 8.0  # inches, of figures whose every layer has a name: read at a third of that, too
BARS = 80  # letters of this size beside each other above all bars
MARKERS = "osD^vPX*"
HATCH: dict[str, Any] = {"hatch": "////", "edgecolor": "white", "linewidth": 0}  # of shortcuts


@dataclass(frozen=True)
class Bars:
    """One row of the bar figure. All values in [0, 1], by layer; None = undefined, or not known.

    stages: of every layer. mark: index of the first layer behind the watershed; sure: whether most seeds say
    so. seeds: every seed's own mark, None where it has none.
    """

    title: str
    names: list[str]
    stages: list[str]
    values: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    chance: list[float | None] | None = None
    shortcuts: frozenset[int] = frozenset()
    mark: int | None = None
    marked: str = ""
    sure: bool = True
    seeds: tuple[int | None, ...] = ()


def bars_of(result: Mapping, curve: int = 0) -> Bars:
    """The bars of one keep ratio of an agreement file."""
    asked, layers = result["curves"][curve], result["layers"]
    names, found = [row["name"] for row in layers], asked["watershed"]
    seeds = len(result["seeds"])
    agree = f"{round(found['confidence'] * seeds)} of {seeds} seed{'s' if seeds > 1 else ''}"
    sure = found["confidence"] > 0.5
    title = (
        f"{result['dataset']}, {len(result['tasks'])} tasks ({', '.join(result['tasks'])}), "
        f"each keeps {percent(asked['keep_ratio'])}: overall agreement {percent(asked['overall']['mean'])}"
    )
    mean, low, high, chance = (
        [row[key] for row in asked["layers"]] for key in ("mean", "low", "high", "chance")
    )
    return Bars(
        title,
        _in_stages(names),
        [row["stage"] for row in layers],
        mean,
        low,
        high,
        chance,
        shortcuts=frozenset(i for i, row in enumerate(layers) if row["shortcut"]),
        mark=names.index(found["layer"]) if found["layer"] else None,
        marked=f"{'' if found['layer'] else 'no '}watershed ({agree}{'' if sure else ': uncertain'})",
        sure=sure,
        seeds=tuple(None if layer is None else names.index(layer) for layer in found["by_seed"]),
    )


def bars_of_plain(path: str | Path, title: str) -> Bars:
    """The bars of a plain file, {published layer name: agreement} as text."""
    values = ast.literal_eval(Path(path).read_text())
    stages = [".".join(name.split(".")[1:3]) if ".blocks." in name else "conv1" for name in values]
    stages = [stage.replace("blocks", "stages") for stage in stages]
    return Bars(title, _in_stages(list(values)), stages, list(values.values()))


def _in_stages(names: Sequence[str]) -> list[str]:
    """Short names, without the words that the bands above the bars say."""
    return [name.removeprefix("stages.").removeprefix("blocks.") for name in short_names(names)]


def agreement_bars(rows: Sequence[Bars]) -> Figure:
    """A row of bars for each data set, as in the paper's figure; shortcuts hatched, range of the seeds."""
    longest = [max(map(len, row.names)) for row in rows]
    heights = [3.2 + 0.08 * letters for letters in longest]
    figure = new_figure(NARROW, sum(heights))
    grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    for place, row in enumerate(rows):
        _bars(figure.add_subplot(grid[place, 0]), row)
    return figure


def _bars(axes: Axes, row: Bars) -> None:
    count = len(row.names)
    _stage_bands(axes, row.stages)
    axes.set_ylim(0, 114)
    axes.set_xlim(-0.6, count - 0.4)
    for index, value in enumerate(row.values):
        hatch = HATCH if index in row.shortcuts else {}
        axes.bar(index, 100 * (value or 0.0), width=0.72, color=COLOURS[0], zorder=2, **hatch)
        if value is None:
            axes.text(index, 2, "nobody keeps any", rotation=90, ha="center", fontsize=7.5, color=DIM)
    keys = [_key("agreement", color=COLOURS[0], patch=True)]
    if row.shortcuts:
        keys.append(_key("shortcut", color=COLOURS[0], patch=True, hatch="////", edgecolor="white"))
    if row.low and row.high and row.low != row.high:
        for index, (low, high) in enumerate(zip(row.low, row.high, strict=True)):
            if low is not None and high is not None:
                axes.plot([index] * 2, [100 * low, 100 * high], color=INK, linewidth=1.6, zorder=3)
        keys.append(_key("lowest to highest seed", color=INK, linewidth=1.6))
    known = [(index, 100 * value) for index, value in enumerate(row.chance or ()) if value is not None]
    if known:
        places, heights = zip(*known, strict=True)
        axes.scatter(places, heights, marker="_", s=90, color=COLOURS[4], linewidth=2.2, zorder=4)
        style: dict[str, Any] = {"marker": "_", "markersize": 9, "markeredgewidth": 2.2, "linestyle": ""}
        keys.append(_key("random masks of these densities", color=COLOURS[4], **style))
    keys += _watershed(axes, row)
    axes.set_xticks(range(count), row.names, rotation=90, fontsize=10)
    axes.set_ylabel("agreement, %", color=INK)
    axes.set_title(row.title, color=INK, fontsize=11, loc="left", pad=10 + 16 * -(-len(keys) // 3))
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=3, fontsize=10,
        frameon=False, labelcolor=INK, columnspacing=1.4, handlelength=1.6, borderaxespad=0.2,
        labelspacing=0.2,
    )  # fmt: skip
    plain_axes(axes)


def _watershed(axes: Axes, row: Bars) -> list[Artist]:
    """The line of all seeds together, dotted and thin where most seeds say otherwise, and a mark for each
    seed's own; the keys of both."""
    keys = []
    if row.mark is not None:
        style: dict[str, Any] = {"linestyle": "--", "linewidth": 2} if row.sure else {"linestyle": ":"}
        axes.axvline(row.mark - 0.5, color=COLOURS[1], zorder=5, **style)
        keys.append(_key(row.marked, color=COLOURS[1], **style))
    elif row.marked:
        keys.append(_key(row.marked, color="none"))
    own = Counter(mark for mark in row.seeds if mark is not None)
    if len(row.seeds) > 1 and own:
        marks: dict[str, Any] = {"marker": "v", "markersize": 7, "linestyle": "", "color": COLOURS[1]}
        for place, count in own.items():
            axes.plot([place - 0.5], [99], zorder=6, **marks)
            axes.text(place - 0.3, 99, f"{count} of {len(row.seeds)}", fontsize=8, color=INK, va="center")
        keys.append(_key("each seed's own", **marks))
    return keys


def _key(label: str, color: str, patch: bool = False, **style: Any) -> Artist:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if patch:
        return Patch(label=label, facecolor=color, **style)
    return Line2D([], [], label=label, color=color, **style)


def _stage_bands(axes: Axes, stages: Sequence[str]) -> None:
    """Every other stage on a faint ground, its name above the bars."""
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(stages)], strict=True)):
        if number % 2:
            axes.axvspan(start - 0.5, end - 0.5, color="#f3f3f3", zorder=0)
        place: dict[str, Any] = {"x": (start + end - 1) / 2, "y": 107, "ha": "center", "va": "center"}
        text = stages[start].replace("stages.", "stage ")
        if (end - start) * BARS >= len(stages) * len(text):  # else its layer says so itself
            axes.text(s=text, fontsize=10, color=DIM, **place)


def pair_matrices(result: Mapping, curve: int = 0) -> Figure:
    """Agreement of every pair of tasks, one matrix for each stage of the backbone and one for all of it."""
    asked = result["curves"][curve]
    pairs, tasks = asked["pairs"], asked["pairs"]["tasks"]
    panels = [*pairs["stages"].items(), ("whole backbone", pairs["overall"])]
    side = max(1.2, 0.4 * len(tasks))
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = new_figure(min(WIDTH, columns * (side + 1.1)), rows * (side + 1.2) + 0.6)
    figure.suptitle(
        f"{result['dataset']}: agreement of every pair, each task keeps {percent(asked['keep_ratio'])}",
        color=INK, fontsize=12, x=0.01, ha="left",
    )  # fmt: skip
    axes_list = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (stage, matrix) in zip(axes_list, panels, strict=False):
        _matrix(axes, stage.replace("stages.", "stage "), matrix, tasks)
    for axes in list(axes_list):
        axes.set_visible(False)
    return figure


def _percents(values: Sequence[float | None]) -> list[float]:
    """Shares in percent; nan, which is drawn nowhere, for None."""
    return [float("nan") if value is None else 100 * value for value in values]


def _matrix(axes: Axes, title: str, matrix: list[list[float | None]], tasks: Sequence[str]) -> None:
    shades = list(map(_percents, matrix))
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=180)  # the darkest shade still carries dark text
    for down, row in enumerate(matrix):
        for right, cell in enumerate(row):
            text = "-" if cell is None else f"{100 * cell:.0f}"
            axes.text(right, down, text, ha="center", va="center", color="black", fontsize=10)
    axes.set_xticks(range(len(tasks)), tasks, rotation=90)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_title(title, color=INK, fontsize=10.5)
    axes.tick_params(colors=INK, labelcolor=INK, length=0)


def _line_style(index: int) -> dict[str, Any]:
    """Colour and marker of the index-th line."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def densities(result: Mapping, curve: int = 0) -> Figure:
    """Share of every layer that each task keeps: the shared layers as lines, its own layers beside them."""
    asked, tasks = result["curves"][curve], result["tasks"]
    shared = [row["name"] for row in result["layers"]]
    own = {task: [name for name in asked["density"][task] if name not in shared] for task in tasks}
    tail = max(len(names) for names in own.values())
    ticks = [*_in_stages(shared), *(short_names(own[tasks[0]]) if tail else [])]
    figure = new_figure(NARROW, 4.2 + 0.08 * max(map(len, ticks)))
    axes = figure.add_subplot()
    for index, task in enumerate(tasks):
        density = asked["density"][task]
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
        }
        for names, start, label in ((shared, 0, task), (own[task], len(shared), None)):
            points = [(start + i, 100 * density[n]) for i, n in enumerate(names) if density.get(n)]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, markersize=5, linewidth=1.4, **style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_xticks(range(len(ticks)), ticks, rotation=90, fontsize=10)
    if tail:
        axes.axvline(len(shared) - 0.5, color=INK, linewidth=1)
        for text, place, side in (("shared ", -0.5, "right"), (" each task's own", -0.5, "left")):
            axes.text(
                len(shared) + place, 1.01, text, ha=side, va="bottom", color=INK, fontsize=10,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.set_ylabel("kept weights of the layer, %", color=INK)
    axes.set_title(
        f"{result['dataset']}: what each task keeps, {percent(asked['keep_ratio'])} of its weights in all",
        color=INK, fontsize=11.5, loc="left", pad=20,
    )  # fmt: skip
    figure.legend(frameon=False, labelcolor=INK, loc="outside lower center", ncols=5)
    plain_axes(axes)
    return figure


def against_sparsity(results: Sequence[Mapping]) -> Figure:
    """Overall agreement against the sparsity of the network, a line for each data set."""
    figure = new_figure(NARROW, 5.2)
    axes = figure.add_subplot()
    for index, result in enumerate(results):
        curves = sorted(result["curves"], key=lambda curve: curve["sparsity"])
        x = [100 * curve["sparsity"] for curve in curves]
        y, low, high = (
            _percents([curve["overall"][key] for curve in curves]) for key in ("mean", "low", "high")
        )
        style: dict[str, Any] = {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
        }
        axes.plot(x, y, label=f"{result['dataset']}, {len(result['tasks'])} tasks", linewidth=1.8, **style)
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
        chance = _percents([curve["chance"] for curve in curves])
        label = f"{result['dataset']}, random masks"
        axes.plot(x, chance, label=label, linewidth=1.2, linestyle=":", **style, markerfacecolor="white")
    axes.set_ylim(0, 100)
    axes.set_xlabel("sparsity of the network that keeps what any task keeps, %", color=INK)
    axes.set_ylabel("overall agreement, %", color=INK)
    axes.set_title("Agreement against sparsity (band: all seeds)", color=INK, fontsize=11.5, loc="left")
    figure.legend(frameon=False, labelcolor=INK, loc="outside lower center", ncols=2)
    plain_axes(axes)
    return figure
