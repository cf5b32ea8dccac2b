"""The bar figure of mask agreement, a row for each data set or keep ratio, as in the paper's figure.

Draws what agreement files hold, or the plain text of the published code, and computes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune_utils.picture import COLOURS, INK, new_figure, plain_axes, short_names

WIDTH = 12.0  # inches


@dataclass(frozen=True)
class Bars:
    """One row of the bar figure. All values in [0, 1], by layer; None = undefined, or not known.

    stages: of every layer. mark: index of the first layer behind the watershed.
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


def bars_of(result: Mapping, curve: int = 0) -> Bars:
    """The bars of one keep ratio of an agreement file."""
    asked, layers = result["curves"][curve], result["layers"]
    names, found = [row["name"] for row in layers], asked["watershed"]
    seeds = len(result["seeds"])
    agree = f"{round(found['confidence'] * seeds)} of {seeds} seeds"
    title = (
        f"{result['dataset']}, {len(result['tasks'])} tasks ({', '.join(result['tasks'])}), "
        f"each keeps {asked['keep_ratio']:.1%}: overall agreement {percent(asked['overall']['mean'])}"
    )
    return Bars(
        title,
        short_names(names),
        [row["stage"] for row in layers],
        *([row[key] for row in asked["layers"]] for key in ("mean", "low", "high", "chance")),
        shortcuts=frozenset(i for i, row in enumerate(layers) if row["shortcut"]),
        mark=names.index(found["layer"]) if found["layer"] else None,
        marked=f"{'watershed' if found['layer'] else 'no watershed'} ({agree})",
    )


def bars_of_plain(path: str | Path, title: str) -> Bars:
    """The bars of a plain file, {published layer name: agreement} as text."""
    values = ast.literal_eval(Path(path).read_text())
    stages = [".".join(name.split(".")[1:3]) if ".blocks." in name else "conv1" for name in values]
    stages = [stage.replace("blocks", "stages") for stage in stages]
    return Bars(title, short_names(list(values)), stages, list(values.values()))


def agreement_bars(rows: Sequence[Bars]):
    """A row of bars for each data set, as in the paper's figure; shortcuts hatched, range of the seeds."""
    longest = [max(map(len, row.names)) for row in rows]
    heights = [3.0 + 0.062 * letters for letters in longest]
    figure = new_figure(WIDTH, sum(heights))
    grid = figure.add_gridspec(len(rows), 1, height_ratios=heights)
    for place, row in enumerate(rows):
        _bars(figure.add_subplot(grid[place, 0]), row)
    return figure


def _bars(axes, row: Bars) -> None:
    count = len(row.names)
    _stage_bands(axes, row.stages)
    axes.set_ylim(0, 114)
    axes.set_xlim(-0.6, count - 0.4)
    for index, value in enumerate(row.values):
        hatch = {"hatch": "////", "edgecolor": "white", "linewidth": 0} if index in row.shortcuts else {}
        axes.bar(index, 100 * (value or 0.0), width=0.72, color=COLOURS[0], zorder=2, **hatch)
        if value is None:
            axes.text(index, 2, "nobody keeps any", rotation=90, ha="center", fontsize=7.5, color="#555555")
    keys = [_key("agreement", color=COLOURS[0], patch=True)]
    if row.shortcuts:
        keys.append(_key("shortcut", color=COLOURS[0], patch=True, hatch="////", edgecolor="white"))
    if row.low is not None and row.low != row.high:
        for index, (low, high) in enumerate(zip(row.low, row.high, strict=True)):
            if low is not None:
                axes.plot([index] * 2, [100 * low, 100 * high], color=INK, linewidth=1.6, zorder=3)
        keys.append(_key("lowest to highest seed", color=INK, linewidth=1.6))
    if row.chance is not None:
        known = [(index, 100 * value) for index, value in enumerate(row.chance) if value is not None]
        axes.scatter(*zip(*known, strict=True), marker="_", s=90, color=COLOURS[4], linewidth=2.2, zorder=4)
        style = {"marker": "_", "markersize": 9, "markeredgewidth": 2.2, "linestyle": ""}
        keys.append(_key("random masks of these densities", color=COLOURS[4], **style))
    if row.mark is not None:
        axes.axvline(row.mark - 0.5, color=COLOURS[1], linewidth=2, linestyle="--", zorder=5)
        keys.append(_key(row.marked, color=COLOURS[1], linewidth=2, linestyle="--"))
    elif row.marked:
        keys.append(_key(row.marked, color="none"))
    axes.set_xticks(range(count), row.names, rotation=90, fontsize=8)
    axes.set_ylabel("agreement, %", color=INK)
    axes.set_title(row.title, color=INK, fontsize=11.5, loc="left", pad=24)
    axes.legend(
        handles=keys, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=len(keys), fontsize=9,
        frameon=False, labelcolor=INK, columnspacing=1.4, handlelength=1.6, borderaxespad=0.2,
    )  # fmt: skip
    plain_axes(axes)


def _key(label: str, color: str, patch: bool = False, **style):
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if patch:
        return Patch(label=label, facecolor=color, **style)
    return Line2D([], [], label=label, color=color, **style)


def _stage_bands(axes, stages: Sequence[str]) -> None:
    """Every other stage on a faint ground, its name above the bars."""
    starts = [i for i in range(len(stages)) if i == 0 or stages[i] != stages[i - 1]]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(stages)], strict=True)):
        if number % 2:
            axes.axvspan(start - 0.5, end - 0.5, color="#f3f3f3", zorder=0)
        place = {"x": (start + end - 1) / 2, "y": 107, "ha": "center", "va": "center"}
        axes.text(s=stages[start].replace("stages.", "stage "), fontsize=8.5, color="#555555", **place)


def percent(value: float | None) -> str:
    """0.1234 -> '12.3 %'; '-' for None."""
    return "-" if value is None else f"{100 * value:.1f} %"
