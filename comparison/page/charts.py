"""Charts of the report page, as plotly figures: scores against sparsity, verdicts, densities by layer.

Each takes entries or results and returns a figure; every figure with a choice of measure has a menu for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from common.figures import COLOURS, DIM, FAINT, INK
from prune_utils.changes import change

from ..entries import DELTA, Entry, columns_of
from ..grid import decimals, heading, spread
from ..results import DENSE, Column, Result
from ..verdicts import BETTER, SAME, WORSE, paired

HEIGHT = 460  # pixels
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
WORDS = {WORSE: -1, SAME: 0, BETTER: 1}
VERDICT_COLOURS = [[0, "#D55E00"], [0.5, "#f2f2f2"], [1, "#0072B2"]]


def curves(by_ratio: Mapping[float, Sequence[Entry]], dense: Entry | None) -> go.Figure:
    """Mean score against sparsity, a line for each method with its spread over seeds; a menu of measures.

    by_ratio: sparsity in percent -> its entries. dense: drawn as a level line.
    """
    entries = [entry for group in by_ratio.values() for entry in group]
    columns = columns_of([*entries, *([dense] if dense else [])])
    labels = list(dict.fromkeys(entry.label for entry in entries))
    figure = go.Figure()
    owners: list[Column] = []
    for column in columns:
        for number, label in enumerate(labels):
            found = [
                (ratio, entry)
                for ratio in sorted(by_ratio)
                for entry in by_ratio[ratio]
                if entry.label == label and column in entry.values
            ]
            if found:
                figure.add_trace(_line(found, column, label, number, column == columns[0]))
                owners.append(column)
        if dense and column in dense.values:
            figure.add_trace(_level(dense, column, sorted(by_ratio), column == columns[0]))
            owners.append(column)
    figure.update_layout(**_layout("sparsity, %", heading(columns[0])))
    _menu(figure, columns, owners)
    return figure


def _line(
    found: list[tuple[float, Entry]], column: Column, label: str, number: int, shown: bool
) -> go.Scatter:
    spreads = [spread(list(entry.values[column].values())) for _, entry in found]
    digits = decimals(column, [mean for mean, _ in spreads])
    seeds = [len(entry.values[column]) for _, entry in found]
    return go.Scatter(
        x=[ratio for ratio, _ in found],
        y=[mean for mean, _ in spreads],
        error_y={
            "type": "data",
            "array": [0 if math.isnan(deviation) else deviation for _, deviation in spreads],
            "thickness": 1,
        },
        customdata=seeds,
        hovertemplate=f"{label}<br>%{{x:g}} %: %{{y:.{digits}f}}, %{{customdata}} seeds<extra></extra>",
        mode="lines+markers",
        name=label,
        legendgroup=label,
        marker={"symbol": SYMBOLS[number // len(COLOURS) % len(SYMBOLS)], "size": 8},
        line={"color": COLOURS[number % len(COLOURS)], "width": 1.5},
        visible=shown,
    )


def _level(dense: Entry, column: Column, ratios: Sequence[float], shown: bool) -> go.Scatter:
    mean, _ = spread(list(dense.values[column].values()))
    ends = [min(ratios, default=0.0), max(ratios, default=100.0)]
    ends = ends if ends[0] < ends[1] else [ends[0] - 1, ends[1] + 1]
    digits = decimals(column, [mean])
    return go.Scatter(
        x=ends,
        y=[mean, mean],
        mode="lines",
        name=DENSE,
        line={"color": INK, "width": 1, "dash": "dash"},
        hovertemplate=f"{DENSE}: %{{y:.{digits}f}}<extra></extra>",
        visible=shown,
    )


def frontier(by_ratio: Mapping[float, Sequence[Entry]], dense: Entry) -> go.Figure:
    """Change against the dense network (delta) over the share of weights that is kept, and the line of those
    that no other beats in both."""
    entries = [entry for group in by_ratio.values() for entry in group if DELTA in entry.values]
    points = [
        (100 * entry.density, spread(list(entry.values[DELTA].values()))[0], entry.label) for entry in entries
    ]
    points = [point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])]
    best, line = -math.inf, []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if point[1] > best:
            best = point[1]
            line.append(point)
    figure = go.Figure()
    for name, shown, mode in (("methods", points, "markers"), ("frontier", line, "lines")):
        figure.add_trace(
            go.Scatter(
                x=[kept for kept, _, _ in shown],
                y=[change for _, change, _ in shown],
                text=[label for _, _, label in shown],
                mode=mode,
                name=name,
                marker={"size": 9, "color": COLOURS[0]},
                line={"color": COLOURS[1], "width": 1.5, "shape": "hv"},
                hovertemplate="%{text}<br>%{x:.2f} % kept: %{y:+.2f} %<extra></extra>",
            )
        )
    figure.add_hline(y=0, line={"color": INK, "width": 1, "dash": "dash"}, annotation_text=dense.label)
    figure.update_layout(**_layout("kept weights, %", "change against dense, %"))
    marks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
    figure.update_xaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    return figure


def matrix(entries: Sequence[Entry]) -> go.Figure:
    """Who is better than whom: a cell says what the row's method is, paired by seed, against the column's."""
    columns = columns_of(entries)
    labels = [entry.label for entry in entries]
    figure = go.Figure()
    for column in columns:
        cells = [[_verdict(row, other, column) for other in entries] for row in entries]
        figure.add_trace(
            go.Heatmap(
                x=labels,
                y=labels,
                z=[[cell[0] for cell in row] for row in cells],
                text=[[cell[1] for cell in row] for row in cells],
                customdata=[[cell[2] for cell in row] for row in cells],
                texttemplate="%{text}",
                hovertemplate="%{y}<br>against %{x}<br>%{customdata}<extra></extra>",
                colorscale=VERDICT_COLOURS,
                zmin=-1,
                zmax=1,
                showscale=False,
                xgap=2,
                ygap=2,
                visible=column == columns[0],
            )
        )
    figure.update_layout(**_layout("against", "", HEIGHT + 14 * len(labels)))
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(automargin=True, tickangle=-40)
    _menu(figure, columns, list(columns), axis=False)
    return figure


def _verdict(row: Entry, other: Entry, column: Column) -> tuple[float | None, str, str]:
    """Colour, text and hover of a cell; an empty one where nothing can be compared."""
    if row is other or column not in row.values or column not in other.values:
        return None, "", "nothing to compare"
    verdict = paired(row.values[column], other.values[column], column.larger)
    digits = decimals(column, list(row.values[column].values()))
    difference = f"{verdict.difference:+.{digits}f}"
    interval = "one seed gives no interval"
    if math.isfinite(verdict.low):
        interval = f"95 % interval {verdict.low:+.{digits}f} .. {verdict.high:+.{digits}f}"
    told = f"{heading(column)}: {difference}, {interval}, {verdict.seeds} seeds: {verdict.word}"
    return WORDS[verdict.word], difference, told


def changes(entries: Sequence[Entry], dense: Entry) -> go.Figure:
    """Each task's change against the dense network in percent, method by method."""
    tasks = list(dict.fromkeys(column.task for column in columns_of(entries) if column.task))
    figure = go.Figure()
    for number, task in enumerate(tasks):
        points = []
        for entry in entries:
            own = [c for c in entry.values if c.task == task and c in dense.values]
            by_seed = [
                100 * fmean(change(entry.values[c][s], dense.values[c][s], c.larger) for c in own)
                for s in entry.seeds
                if own and all(s in entry.values[c] and s in dense.values[c] for c in own)
            ]
            points.append(spread(by_seed))
        figure.add_trace(
            go.Scatter(
                x=[mean for mean, _ in points],
                y=[entry.label for entry in entries],
                error_x={
                    "type": "data",
                    "array": [0 if math.isnan(deviation) else deviation for _, deviation in points],
                    "thickness": 1,
                },
                mode="markers",
                name=task,
                marker={"size": 10, "color": COLOURS[number % len(COLOURS)], "symbol": SYMBOLS[number % 8]},
                hovertemplate=f"%{{y}}<br>{task}: %{{x:+.2f}} %<extra></extra>",
            )
        )
    figure.update_layout(**_layout("change against dense, %", "", 230 + 26 * len(entries)))
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.add_vline(x=0, line={"color": INK, "width": 1, "dash": "dash"})
    return figure


def densities(results: Sequence[tuple[Result, Mapping[str, Any]]]) -> go.Figure:
    """Kept share of every layer, a row for each method; results with their certificates, one seed each."""
    layers = list(dict.fromkeys(layer for _, cert in results for layer in cert["layers"]))
    shares = [
        [
            cert["layers"][layer]["kept"] / cert["layers"][layer]["total"]
            if layer in cert["layers"]
            else None
            for layer in layers
        ]
        for _, cert in results
    ]
    figure = go.Figure(
        go.Heatmap(
            x=layers,
            y=[result.label for result, _ in results],
            z=[[None if share is None else math.log10(max(share, 1e-4)) for share in row] for row in shares],
            customdata=[[None if share is None else 100 * share for share in row] for row in shares],
            hovertemplate="%{y}<br>%{x}: %{customdata:.2f} % kept<extra></extra>",
            colorscale="Cividis",
            zmin=-4,
            zmax=0,
            colorbar={
                "title": "kept",
                "tickvals": [-4, -3, -2, -1, 0],
                "ticktext": ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"],
            },
        )
    )
    figure.update_layout(**_layout("layer, from the input", "", 300 + 26 * len(results)))
    figure.update_xaxes(showticklabels=len(layers) <= 40, tickangle=-60)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _layout(x: str, y: str, height: int = HEIGHT) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 60, "r": 10, "t": 60, "b": 110},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"color": INK, "size": 13},
        "xaxis": {"title": x, "gridcolor": FAINT, "linecolor": INK, "zeroline": False},
        "yaxis": {"title": y, "gridcolor": FAINT, "linecolor": INK, "zeroline": False},
        "legend": {
            "font": {"color": DIM},
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
        },
        "hovermode": "closest",
    }


def _menu(figure: go.Figure, columns: Sequence[Column], owners: Sequence[Column], axis: bool = True) -> None:
    """A menu above the chart that shows one measure's traces. owners: of every trace, its measure."""
    if len(columns) < 2:
        return
    buttons = [
        {
            "label": heading(column),
            "method": "update",
            "args": [
                {"visible": [owner == column for owner in owners]},
                {"yaxis.title.text": heading(column)} if axis else {},
            ],
        }
        for column in columns
    ]
    figure.update_layout(
        updatemenus=[
            {
                "buttons": buttons,
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
                "showactive": True,
            }
        ]
    )
