"""What `python3 -m agreement.noise` leaves behind: JSON, CSV, a picture; and its tables, in Markdown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from common.figures import COLOURS, INK, new_figure, plain_axes, write_figure
from common.files import replacing, write_json

from .scatter import SUMS, Value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Files = list[tuple[Path, str]]
Key = tuple[str, bool, str, int, str, str, str]  # a value without its seed
CASES = [(dropout, kind) for dropout in (True, False) for kind in SUMS]


def paths(folder: Path, stem: str) -> dict[str, Path]:
    """The files of one measurement, by their ending."""
    return {kind: folder / f"{stem}.{kind}" for kind in ("json", "csv", "png")}


def write(result: Mapping, where: Mapping[str, Path]) -> Files:
    """Write all three, once the picture is made; returns what holds what."""
    drawn = picture(result)
    write_json(where["json"], dict(result))
    with replacing(where["csv"]) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, Value._fields)
        writer.writeheader()
        writer.writerows(result["values"])
    write_figure(drawn, where["png"])
    return [
        (where["json"], "every figure, and the settings"),
        (where["csv"], "every figure, one a line"),
        (where["png"], "agreement of masks against batches"),
    ]


def means(result: Mapping) -> dict[Key, tuple[float, float]]:
    """Mean value and chance over the seeds, of everything that is defined for all of them."""
    found: dict[Key, list[tuple[float | None, float | None]]] = {}
    for row in map(lambda one: Value(**one), result["values"]):
        key = (row.measure, row.dropout, row.sum, row.batches, row.of, row.budget, row.part)
        found.setdefault(key, []).append((row.value, row.chance))
    return {
        key: (fmean(v for v, _ in pairs if v is not None), fmean(c for _, c in pairs if c is not None))
        for key, pairs in found.items()
        if None not in sum(pairs, ())
    }


def enough(sizes: Iterable[int], values: Mapping[int, tuple[float, float]]) -> str:
    """The smallest number of batches whose masks agree on more than half of what chance leaves open."""
    for size in sizes:
        value, chance = values.get(size, (0.0, 1.0))
        if value - chance > (1 - chance) / 2:
            return f"{size}"
    return f"more than {max(sizes)}"


def tables(result: Mapping) -> str:
    """Markdown: agreement of masks, between methods, and of ranks; means over the seeds."""
    found, sizes = means(result), result["sizes"]
    seeds = ", ".join(map(str, result["seeds"]))
    head = f"{result['dataset']}, {result['ratio']:g} %, batches of {result['batch_size']}, seeds {seeds}"
    batches = [f"{size}" for size in sizes]
    parts = [f"Agreement of masks from two sets of batches, trunk / heads / all ({head})", ""]
    rows = []
    for of, budget in _masks(result, "iou"):
        for dropout, kind in CASES:
            cells = [_cell(found, ("iou", dropout, kind, size, of, budget)) for size in sizes]
            trunk = {s: found.get(("iou", dropout, kind, s, of, budget, "trunk"), (0.0, 1.0)) for s in sizes}
            rows.append((of, budget, _yes(dropout), kind, *cells, enough(sizes, trunk)))
    header = ("method", "budget", "dropout", "sum", *batches, "trunk: half of what chance leaves")
    parts += [*_markdown(header, rows), ""]
    if between := _masks(result, "between"):
        parts += ["Agreement of two methods' masks, each from another set, trunk / heads / all", ""]
        rows = [
            (of, budget, *(_cell(found, ("between", True, "unsigned", size, of, budget)) for size in sizes))
            for of, budget in between
        ]
        parts += [*_markdown(("methods", "budget", *batches), rows), ""]
    parts += [
        "Agreement with the masks of |w| alone, as many weights in every layer, trunk / heads / all",
        "",
    ]
    rows = [
        (of, budget, kind, *(_cell(found, ("magnitude", True, kind, size, of, budget)) for size in sizes))
        for of, budget in _masks(result, "magnitude")
        for kind in SUMS
    ]
    parts += [*_markdown(("method", "budget", "sum", *batches), rows), ""]
    parts += ["Rank correlation of scores (Spearman), median over layers, trunk / heads", ""]
    rows = [
        (
            voter,
            _yes(dropout),
            kind,
            *(_cell(found, ("rank", dropout, kind, size, voter, "")) for size in sizes),
        )
        for voter, _ in _masks(result, "rank")
        for dropout, kind in CASES
    ]
    parts += _markdown(("voter", "dropout", "sum", *batches), rows)
    return "\n".join(parts)


def _masks(result: Mapping, measure: str) -> list[tuple[str, str]]:
    """Of what there are values: (method or voter, budget)."""
    return list(
        dict.fromkeys((row["of"], row["budget"]) for row in result["values"] if row["measure"] == measure)
    )


def _cell(found: Mapping[Key, tuple[float, float]], key: tuple) -> str:
    values = [found.get((*key, part)) for part in ("trunk", "heads", "all")]
    return " / ".join(f"{value[0]:.2f}" for value in values if value is not None) or "-"


def _yes(flag: bool) -> str:
    return "on" if flag else "off"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def picture(result: Mapping) -> Figure:
    """A panel for each budget and part: agreement against batches, and what random masks would have."""
    from matplotlib.lines import Line2D

    found, sizes, budgets = means(result), result["sizes"], result["budgets"]
    parts = [part for part in ("trunk", "heads") if any(key[-1] == part for key in found)]
    figure = new_figure(12.0, 4.2 * len(budgets))
    panels = figure.subplots(len(budgets), len(parts), squeeze=False, sharex=True, sharey=True)
    colours = dict(zip(result["methods"], COLOURS, strict=False))
    for row, budget in zip(panels, budgets, strict=True):
        for axes, part in zip(row, parts, strict=True):
            plain_axes(axes)
            for of, colour in colours.items():
                for dropout, kind in CASES:
                    line = [found.get(("iou", dropout, kind, size, of, budget, part)) for size in sizes]
                    shown = [(size, *pair) for size, pair in zip(sizes, line, strict=True) if pair]
                    style: dict[str, Any] = {"color": colour, "linestyle": "-" if dropout else "--"}
                    marker = "o" if kind == "unsigned" else "x"
                    axes.plot([s for s, _, _ in shown], [v for _, v, _ in shown], marker=marker, **style)
                    if dropout and kind == "unsigned":
                        axes.plot(
                            [s for s, _, _ in shown], [c for *_, c in shown], color=colour, linestyle=":"
                        )
            axes.set_xscale("log")
            axes.set_xticks(sizes, [f"{size}" for size in sizes])
            axes.minorticks_off()
            axes.set_ylim(0, 1)
            axes.set_title(f"{part}, budget {budget}", color=INK, fontsize=12)
            axes.set_xlabel("batches in each set", fontsize=11)
            axes.set_ylabel("intersection over union", fontsize=11)
    keys = [Line2D([], [], color=colour, linewidth=3, label=of) for of, colour in colours.items()]
    labels: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dropout, |w g| summed", {"linestyle": "-", "marker": "o"}),
        ("dropout, size of the sum", {"linestyle": "-", "marker": "x"}),
        ("no dropout", {"linestyle": "--"}),
        ("random masks of these densities", {"linestyle": ":"}),
    )
    keys += [Line2D([], [], color=INK, label=label, **style) for label, style in labels]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    figure.suptitle(
        f"How much of a mask is the choice of its batches: {result['dataset']}, {result['ratio']:g} %",
        color=INK,
        fontsize=14,
    )
    return figure
