"""Results to one HTML file that needs nothing beside it: `compare_runs.py DIR --html FILE`.

For every data set, protocol and split: scores against sparsity, scores by sparsity (sortable), who is better
than whom, each task's change, kept shares by layer, certificates, the commands that repeat it all, and on
request the predictions side by side. Everything that comes from a file is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from common.files import read_json
from prune_utils.report import format_certificate

from ..entries import DELTA, Entry, dense_of, gather
from ..grid import Grid
from ..report import Options, report, setups
from ..results import DENSE, Result
from . import charts
from .repeat import commands

HERE = Path(__file__).parent
CHART = {"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d"]}


@dataclass(frozen=True)
class Shown:
    """A result with what only the page needs of its file. pictures: index -> path of a panel."""

    result: Result
    certificate: Mapping[str, Any] | None
    pictures: dict[str, Path]


def page(results: Sequence[Result], title: str, panels: int = 0) -> str:
    """The whole file as text. panels: images whose predictions are shown for each data set, 0 = none.

    Raises ValueError for result files whose certificate cannot be shown.
    """
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.protocol, result.split), []).append(result)
    sections, links = [], []
    for number, ((dataset, protocol, split), members) in enumerate(sorted(groups.items())):
        name = f"{dataset}, {split} images, protocol {protocol}"
        links.append(f'<a href="#part{number}">{escape(name)}</a>')
        sections.append(
            f'<section id="part{number}"><h2>{escape(name)}</h2>{_section(members, panels)}</section>'
        )
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{_asset('style.css')}</style>",
            f"<script>{get_plotlyjs()}</script></head><body>",
            f"<h1>{escape(title)}</h1>",
            f"<nav>{''.join(links)}</nav>" if len(links) > 1 else "",
            *sections,
            f"<script>{_asset('script.js')}</script></body></html>\n",
        ]
    )


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _section(results: Sequence[Result], panels: int) -> str:
    ratios: list[float | None] = [*sorted({r.ratio for r in results if r.ratio is not None})]
    shown = [_shown(result, panels) for result in results]
    parts: list[str] = []
    by_ratio: dict[float | None, list[Entry]] = {}
    dense: Entry | None = None
    for ratio in ratios or [None]:
        members = [result for result in results if result.ratio in (None, ratio)]
        made = report(members, Options())
        entries = gather(members, members[0].protocol, setups())
        reference = {result.label for result in dense_of(members).values()}
        dense = next((entry for entry in entries if entry.label in reference), dense)
        by_ratio[ratio] = [entry for entry in entries if entry.label not in reference]
        parts.append(_table(made.scores))
        if len(entries) > 1:
            parts += [_heading("Who is better than whom, paired by seed"), _chart(charts.matrix(entries))]
        if dense and by_ratio[ratio]:
            parts += [_heading("What each task pays"), _chart(charts.changes(by_ratio[ratio], dense))]
    sparse = {ratio: entries for ratio, entries in by_ratio.items() if ratio is not None}
    if sparse:
        lead = [_heading("Scores against sparsity"), _chart(charts.curves(sparse, dense))]
        if dense and any(DELTA in entry.values for entries in sparse.values() for entry in entries):
            lead += [_heading("What is lost for how small"), _chart(charts.frontier(sparse, dense))]
        parts = [*lead, *parts]
    parts += _layers(shown)
    parts += _panels(shown) if panels else []
    parts += _certificates(shown)
    parts += [_heading("To repeat it"), *(f"<pre>{escape(line)}</pre>" for line in commands(results))]
    return "\n".join(parts)


def _heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def _chart(figure: go.Figure) -> str:
    return f'<div class="chart">{figure.to_html(full_html=False, include_plotlyjs=False, config=CHART)}</div>'


def _table(grid: Grid) -> str:
    head = "".join(f"<th><button>{escape(text)}</button></th>" for text in ("setup", *grid.header))
    rows = []
    for group, cells in grid.rows:
        fields = "".join(
            f"<td{' class=best' if cell.bold else ''}>{escape(cell.text)}</td>" for cell in cells
        )
        rows.append(f"<tr><td>{escape(group)}</td>{fields}</tr>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in grid.notes)
    return (
        f'{_heading(grid.title)}<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><ul class="notes">{notes}</ul>'
    )


def _shown(result: Result, panels: int) -> Shown:
    """Reads the certificate, finds the pictures. ValueError for a certificate of another form."""
    content = read_json(result.path)
    cert = content.get("certificate")
    if cert is not None:
        try:
            format_certificate(cert)
            for counts in cert["layers"].values():
                counts["kept"] / counts["total"]
        except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError, IndexError):
            raise ValueError(
                f"{result.path} is a damaged result file: its certificate cannot be read"
            ) from None
    folder = result.path.parent / f"{content['name']}_{result.split}_pictures"
    return Shown(result, cert, {path.stem: path for path in sorted(folder.glob("*.png"))[:panels]})


def _first_seeds(shown: Iterable[Shown]) -> list[Shown]:
    """One of each method and sparsity, the smallest seed's, in the order of the tables."""
    first: dict[tuple, Shown] = {}
    order = [DENSE, *setups()]
    for one in sorted(shown, key=lambda one: one.result.seed):
        first.setdefault((one.result.label, one.result.ratio), one)

    def place(one: Shown) -> int:
        method = DENSE if one.result.ratio is None else one.result.method
        return order.index(method) if method in order else len(order)

    return sorted(first.values(), key=place)


def _layers(shown: Sequence[Shown]) -> list[str]:
    parts = []
    for ratio in sorted(
        {one.result.ratio for one in shown if one.certificate and one.result.ratio is not None}
    ):
        chosen = [
            (one.result, one.certificate)
            for one in _first_seeds(shown)
            if one.certificate and one.result.ratio == ratio
        ]
        parts += [_heading(f"What is kept of every layer at {ratio:g} %"), _chart(charts.densities(chosen))]
    return parts


def _named(result: Result) -> str:
    return result.label if result.ratio is None else f"{result.label} at {result.ratio:g} %"


def _certificates(shown: Sequence[Shown]) -> list[str]:
    parts = [
        f"<details><summary>{escape(_named(one.result))}, seed {one.result.seed}</summary>"
        f"<pre>{escape(format_certificate(one.certificate))}</pre></details>"
        for one in shown
        if one.certificate
    ]
    return [_heading("Certificates"), *parts] if parts else []


def _panels(shown: Sequence[Shown]) -> list[str]:
    """Two networks' predictions above each other, with a border that moves."""
    having = {_named(one.result): one.pictures for one in _first_seeds(shown) if one.pictures}
    if not having:
        return []
    common = sorted(set.intersection(*(set(pictures) for pictures in having.values())))
    data = {
        name: {index: _embedded(pictures[index]) for index in common} for name, pictures in having.items()
    }
    names = list(having)
    options = [
        "".join(f"<option{' selected' if n == chosen else ''}>{escape(n)}</option>" for n in names)
        for chosen in (names[0], names[-1])
    ]
    images = "".join(f"<option>{escape(index)}</option>" for index in common)
    return [
        _heading("Predictions, side by side"),
        f'<div class="panels"><label>left <select>{options[0]}</select></label>'
        f"<label>right <select>{options[1]}</select></label><label>image <select>{images}</select></label>"
        '<input type="range" min="0" max="100" value="50" aria-label="border between left and right">'
        '<div class="pair"><img><img class="over"></div>'
        f'<script type="application/json">{json.dumps(data).replace("<", chr(92) + "u003c")}</script></div>',
    ]


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
