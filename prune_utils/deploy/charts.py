"""Pictures of a benchmark: bars of latency, and speed against sparsity. They compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..figures import COLOURS, INK, new_figure, plain_axes, write_figure

KINDS = {"fp32": COLOURS[0], "bf16": COLOURS[4], "ours": COLOURS[2]}
NAMES = {"fp32": "dense, fp32", "bf16": "dense, bf16", "ours": "kept weights only"}
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1.5, 1, 1.5, 1, 1.5)))


def latency_bars(cases: list[dict[str, Any]], title: str, path: Path) -> Path:
    """One panel a case: {"title", "rows", "limit"}, rows as measuring.py gives them, limit in ms."""
    from matplotlib.patches import Patch

    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure = new_figure(6.2 * columns, 0.9 + lines * (1.1 + 0.34 * max(len(case["rows"]) for case in cases)))
    figure.suptitle(title, color=INK)
    for index, case in enumerate(cases):
        axes = figure.add_subplot(lines, columns, index + 1)
        rows = sorted(case["rows"], key=lambda row: -row["milliseconds"]["median"])
        times = [row["milliseconds"] for row in rows]
        medians = [time["median"] for time in times]
        spread = [
            [time["median"] - time["low"] for time in times],
            [time["high"] - time["median"] for time in times],
        ]
        colours = [KINDS[row["kind"]] for row in rows]
        axes.barh(range(len(rows)), medians, xerr=spread, color=colours, ecolor=INK, capsize=2)
        for place, time in enumerate(times):
            axes.text(
                time["high"],
                place,
                f"  {time['median']:.0f}",
                va="center",
                ha="left",
                color=INK,
                fontsize=9.5,
            )
        if case.get("limit"):
            axes.axvline(case["limit"], color=INK, linestyle=":")
            axes.text(case["limit"], len(rows) - 0.4, " arithmetic limit", color=INK, fontsize=9, va="bottom")
        axes.set_yticks(range(len(rows)), [row["runtime"] for row in rows])
        axes.set_xlim(0, max(max(time["high"] for time in times) * 1.12, 1e-6))
        axes.set_title(case["title"], color=INK, fontsize=10, loc="left", pad=14)
        axes.set_xlabel("milliseconds a batch: median and deciles", color=INK)
        plain_axes(axes, "x")
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for case in cases for row in case["rows"])]
    keys = [Patch(color=KINDS[kind], label=NAMES[kind]) for kind in kinds]
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, labelcolor=INK)
    return write_figure(figure, path)


def speed_curve(
    points: list[tuple[float, float]], dense: list[dict[str, Any]], title: str, path: Path
) -> Path:
    """points: (sparsity in percent, milliseconds of the engine); dense: rows of every other runtime, drawn as
    level lines, slowest first in the legend: zeros make none of them faster."""
    figure = new_figure(8.0, 6.2)
    axes = figure.add_subplot()
    points = sorted(points)
    drawn: dict[str, int] = {}
    for row in sorted(dense, key=lambda row: -row["milliseconds"]["median"]):
        kind, median = row["kind"], row["milliseconds"]["median"]
        style = STYLES[drawn.setdefault(kind, 0) % len(STYLES)]
        drawn[kind] += 1
        label = f"{row['runtime']}: {median:.0f}"
        axes.axhline(median, color=KINDS[kind], linestyle=style, linewidth=1.6, label=label)
    label = f"sparse engine, {NAMES['ours']}"
    axes.plot(*zip(*points, strict=True), "o-", color=KINDS["ours"], label=label, linewidth=2, zorder=3)
    for ratio, milliseconds in points:
        place, side = (
            ((-9, -5), "right") if ratio > 60 else ((0, -22), "left")
        )  # below the curve, off the axis
        axes.annotate(
            f"{milliseconds:.0f}", (ratio, milliseconds), place, textcoords="offset points", fontsize=11,
            color=INK, ha=side, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip
    axes.set_xlabel("pruned weights, percent", color=INK)
    axes.set_ylabel("milliseconds an image, median", color=INK)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-6, 103)
    axes.set_title(title, color=INK, loc="left")
    figure.legend(
        frameon=False, labelcolor=INK, loc="outside lower center", ncols=2, handlelength=3.2,
        title="milliseconds; blue: dense, fp32; orange: dense, bf16",
    )  # fmt: skip
    plain_axes(axes, "y")
    return write_figure(figure, path)
