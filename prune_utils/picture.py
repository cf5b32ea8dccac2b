"""One PNG of a network: the density of every layer, who owns it, weights and multiply-adds before and after.

Leaves out biases and norms, which are never pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import COLOURS, FAINT, INK, new_figure, plain_axes, short_names, write_figure
from .inventory import Group, Layer, amount, groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 16  # layers from which a group gets a row of its own
WIDTH = 9.0  # inches: words of 9 points are still read at a third of it
ROW, LETTER = 2.2, 0.08  # inches: of a row of bars, and of a letter of the names below it


def draw(layers: Sequence[Layer], title: str, shape: Sequence[int], path: Path) -> Path:
    """Writes the picture. title: says which network; shape: (height, width) behind the multiply-adds."""
    parts = groups(list(layers))
    rows = _rows(parts)
    heights = [0.9 + 0.42 * len(parts), *map(_height, rows)]
    figure = new_figure(WIDTH, 0.7 + sum(heights))
    whole = sum(layer.kept for layer in layers) / sum(layer.total for layer in layers)
    figure.suptitle(f"{title} (dashed: {whole:.1%} kept)", color=INK, fontsize=13, x=0.01, ha="left")
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    amounts = (
        ("weights", [(group.kept, group.total) for group in parts]),
        (
            f"multiply-adds for {shape[0]} x {shape[1]} pixels",
            [(group.kept_macs, group.macs) for group in parts],
        ),
    )
    for column, (what, numbers) in enumerate(amounts):
        _before_after(figure.add_subplot(grid[0, column]), what, [group.name for group in parts], numbers)
    colours = {group.name: COLOURS[index % len(COLOURS)] for index, group in enumerate(parts)}
    for number, row in enumerate(rows, 1):
        for column, group in enumerate(row):
            place = grid[number, :] if len(row) == 1 and len(group.layers) >= WIDE else grid[number, column]
            _densities(figure.add_subplot(place), group, colours[group.name], whole)
    return write_figure(figure, path)


def _rows(parts: Sequence[Group]) -> list[list[Group]]:
    """Long groups alone, short ones in pairs, in their order."""
    rows: list[list[Group]] = []
    for group in parts:
        short = len(group.layers) < WIDE
        if rows and short and len(rows[-1]) == 1 and len(rows[-1][0].layers) < WIDE:
            rows[-1].append(group)
        else:
            rows.append([group])
    return rows


def _height(row: Sequence[Group]) -> float:
    """Inches that a row needs, its labels included."""
    longest = max(len(name) for group in row for name in short_names([of.name for of in group.layers]))
    return ROW + LETTER * longest


def _before_after(axes: Axes, what: str, names: list[str], numbers: list[tuple[int, int]]) -> None:
    """Horizontal bars: the whole faint, what is kept in colour, figures beside them."""
    kept, whole = zip(*numbers, strict=True)
    names = [*names, "together"]
    kept, whole = (*kept, sum(kept)), (*whole, sum(whole))
    places = range(len(names))
    colours = [*(COLOURS[index % len(COLOURS)] for index in range(len(names) - 1)), INK]
    axes.barh(places, whole, color=FAINT, height=0.7)
    axes.barh(places, kept, color=colours, height=0.7)
    for place, some, total in zip(places, kept, whole, strict=True):
        share = some / total if total else 0.0
        axes.text(
            total + max(whole) * 0.015,
            place,
            f"{amount(some)} of {amount(total)} ({share:.1%})",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(whole) * 1.95)
    axes.set_xticks([])
    axes.set_title(f"{what}, kept of dense", color=INK, fontsize=11, loc="left")
    plain_axes(axes, grid=None)
    axes.spines["bottom"].set_visible(False)


def _densities(axes: Axes, group: Group, colour: str, whole: float) -> None:
    """A bar a layer, in percent, with its figure above it."""
    names = short_names([layer.name for layer in group.layers])
    percents = [100 * layer.density for layer in group.layers]
    axes.axhline(100 * whole, color=INK, linewidth=1, linestyle="--", zorder=1)
    bars = axes.bar(range(len(names)), percents, color=colour, width=0.75, zorder=2)
    texts = [f"{value:.0f}" if value >= 9.95 else f"{value:.2g}" for value in percents]
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    axes.bar_label(bars, texts, fontsize=9, color=INK, padding=2.5, bbox=ground)
    axes.set_xlim(-0.6, max(len(names), 8) - 0.4)
    top = max(*percents, 100 * whole) * 1.15
    axes.set_ylim(0, top if top < 60 else 115)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
    axes.set_ylabel("kept weights, %", color=INK)
    owned = "owned by all tasks" if group.name == "all tasks" else group.name
    share = group.kept / group.total
    axes.set_title(
        f"{owned}: {share:.1%} of {amount(group.total)} weights", color=INK, fontsize=11, loc="left"
    )
    plain_axes(axes)
