"""Pictures of a benchmark: bars of latency, and speed against sparsity. They compute nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..figures import COLOURS, INK, new_figure, plain_axes

KINDS = {"fp32": COLOURS[0], "bf16": COLOURS[4], "ours": COLOURS[2]}
NAMES = {"fp32": "dense, fp32", "bf16": "dense, bf16", "ours": "kept weights only, fp32"}


def latency_bars(cases: list[dict[str, Any]], title: str, path: Path) -> Path:
    """One panel a case: {"title", "rows", "limit"}, rows as measuring.py gives them, limit in ms."""
    columns = min(2, len(cases))
    lines = -(-len(cases) // columns)
    figure = new_figure(6.2 * columns, 0.6 + lines * (1.1 + 0.34 * max(len(case["rows"]) for case in cases)))
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
        for place, median in enumerate(medians):
            axes.text(median, place, f" {median:.0f}", va="bottom", ha="left", color=INK, fontsize=8)
        if case.get("limit"):
            axes.axvline(case["limit"], color=INK, linestyle=":")
            axes.text(case["limit"], len(rows) - 0.4, " arithmetic limit", color=INK, fontsize=8, va="bottom")
        axes.set_yticks(range(len(rows)), [row["runtime"] for row in rows])
        axes.set_xlim(0, max(max(time["high"] for time in times) * 1.08, 1e-6))
        axes.set_title(case["title"], color=INK, fontsize=10, loc="left", pad=14)
        axes.set_xlabel("milliseconds a batch: median and deciles", color=INK)
        plain_axes(axes, "x")
    figure.savefig(path)
    return path


def speed_curve(
    points: list[tuple[float, float]], dense: list[dict[str, Any]], title: str, path: Path
) -> Path:
    """points: (sparsity in percent, milliseconds of the engine); dense: rows drawn as level lines."""
    figure = new_figure(7.5, 4.5)
    axes = figure.add_subplot()
    points = sorted(points)
    axes.plot(*zip(*points, strict=True), "o-", color=KINDS["ours"], label=NAMES["ours"])
    for row, style in zip(dense, ("-", "--", "-.", ":") * len(dense), strict=False):
        label = row["runtime"]
        axes.axhline(row["milliseconds"]["median"], color=KINDS[row["kind"]], linestyle=style, label=label)
    for ratio, milliseconds in points:
        axes.annotate(
            f"{milliseconds:.0f}", (ratio, milliseconds), (0, 6), textcoords="offset points", fontsize=8
        )
    axes.set_xlabel("pruned weights, percent", color=INK)
    axes.set_ylabel("milliseconds an image, median", color=INK)
    axes.set_ylim(bottom=0)
    axes.set_title(title, color=INK, loc="left")
    axes.legend(frameon=False, fontsize=8)
    plain_axes(axes, "y")
    figure.savefig(path)
    return path
