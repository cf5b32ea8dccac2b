"""A tier at a glance: how far every row lies from the dense network, paired by seed, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.figures import COLOURS, DIM, FAINT, INK, new_figure, plain_axes, write_figure

from .entries import Entry
from .grid import heading
from .results import DENSE, Column
from .verdicts import BETTER, SAME, WORSE, paired

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEY = (
    "diamond: mean, bar: its 95 % interval (blue better, orange worse, grey neither), dots: seeds, "
    "band: less than is worth finding"
)
LINE = 34  # letters of a label in a line
SHADES = {BETTER: COLOURS[0], WORSE: COLOURS[1], SAME: DIM}


def draw_forest(entries: Sequence[Entry], effects: Mapping[Column, float], title: str, path: Path) -> Path:
    """A panel for every measure: the mean of the differences from the dense network, their 95 % interval,
    every seed as a dot, and a band within which a difference is not worth finding.

    effects: measure -> half the width of that band, in its unit.
    """
    dense = next(entry for entry in entries if entry.label == DENSE)
    rows = [entry for entry in entries if entry is not dense]
    labels = [wrapped(entry.label) for entry in rows]
    places = _places(labels)
    figure = new_figure(3.4 + 3.1 * len(effects), 1.6 + 0.17 * (places[-1] + 1))
    panels = figure.subplots(1, len(effects), sharey=True, squeeze=False)[0]
    for axes, (column, effect) in zip(panels, effects.items(), strict=True):
        plain_axes(axes)
        axes.axvspan(-effect, effect, color=FAINT, alpha=0.35, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1.0)
        for place, entry in zip(places, rows, strict=True):
            _row(axes, place, entry.values[column], dense.values[column], column.larger)
        axes.set_xlabel(heading(column), fontsize=11)
    panels[0].set_yticks(places, labels, fontsize=9)
    panels[0].set_ylim(places[-1] + 2, -2)
    figure.suptitle(f"{title}: difference from the dense network of the same seed", color=INK, fontsize=12)
    figure.supxlabel(KEY, color=DIM, fontsize=9)
    return write_figure(figure, path)


def wrapped(label: str) -> str:
    """A method and its settings in lines that are not too long, broken before a setting."""
    lines = [""]
    for number, word in enumerate(label.split(":")):
        part = word if number == 0 else f":{word}"
        if lines[-1] and len(lines[-1]) + len(part) > LINE:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _places(labels: Sequence[str]) -> list[float]:
    """Where each row stands, in lines from the top, so that labels of several lines do not meet."""
    places, top = [], 0.0
    for label in labels:
        height = 1 + label.count("\n")
        places.append(top + height / 2)
        top += height + 0.8
    return places


def _row(
    axes: Axes, place: float, own: Mapping[int, float], other: Mapping[int, float], larger: bool
) -> None:
    verdict = paired(own, other, larger)
    colour = SHADES[verdict.word]
    seeds = [own[seed] - other[seed] for seed in sorted(set(own) & set(other))]
    axes.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=3, alpha=0.35)
    if math.isfinite(verdict.low):
        axes.plot([verdict.low, verdict.high], [place, place], color=colour, linewidth=2.2)
    axes.plot(verdict.difference, place, "D", color=colour, markersize=5.5)
