# PYTHON_ARGCOMPLETE_OK
"""`python3 -m comparison.frontier DIR...`: what a network keeps of the dense one's scores, and what it costs.

Read are result files (eval_pruned_net.py) and speeds (python3 -m benchmarks.engines, python3 -m
prune_utils.deploy.benchmark) below the folders; nothing is run. A speed belongs to the results of the same
name. One picture and one Markdown table: delta against the dense network of the same seed, mean over seeds,
against latency in each runtime, multiply-adds, bytes and memory. On the frontier is what nothing beats in
both.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Any

from common.command_line import Parser, ending
from common.figures import COLOURS, FAINT, INK, new_figure, plain_axes, write_figure
from common.files import read_json, replacing
from common.names import BASELINE
from common.text import files_table

from .entries import DELTA, dense_of, gather
from .results import Result, read_results, refuse_mixtures, refuse_other_images

COSTS = {  # field of a Point -> what it is, its unit
    "latency": ("latency", "ms"),
    "operations": ("multiply-adds", "billions"),
    "megabytes": ("file", "MB"),
    "memory": ("memory", "MiB"),
}
MARKERS = "osD^vPX*<>hp"


@dataclass(frozen=True)
class Point:
    """A network in a runtime. delta: percent, 0 for the dense one; costs are nan where nobody measured them.

    megabytes: of the file that the runtime reads: dense, or sparse for the engine.
    """

    network: str
    runtime: str
    delta: float
    latency: float
    operations: float
    megabytes: float
    memory: float


def main(words: list[str] | None = None) -> int:
    """The command; exit status 0, or 2 after one sentence about what is wrong."""
    result = Parser(prog="python3 -m comparison.frontier", description=__doc__.split("\n")[0])
    result.add_argument("folders", nargs="+", metavar="DIR", help="with result files and *_speed.json")
    result.add_argument(
        "--dest", default="outputs", metavar="DIR", help="where the files go, made if missing"
    )
    result.add_argument("--batch", type=int, default=1, metavar="N", help="images at once")
    result.add_argument("--threads", type=int, default=2, metavar="N", help="of the processor")
    asked = result.parse_args(words)

    def work() -> int:
        points = points_of(asked.folders, asked.batch, asked.threads)
        dest = Path(asked.dest)
        title = f"batch {asked.batch}, {asked.threads} threads"
        table, picture = dest / "frontier.md", dest / "frontier.png"
        with replacing(table) as temporary:
            temporary.write_text(markdown(points, title), encoding="utf-8")
        draw(points, title, picture)
        files = [(table, "every network in every runtime"), (picture, "delta against each cost")]
        networks = {point.network for point in points}
        print(files_table(f"compared {len(networks)} networks, {len(points)} points.", files))
        return 0

    return ending(work)


# ----------------------------------------------------------------------------------------- reading
def points_of(folders: Iterable[str | Path], batch: int, threads: int) -> list[Point]:
    """A point for each network whose results and speeds lie below the folders, in each runtime.

    ValueError or FileNotFoundError in one sentence: damaged files, no dense results, nothing that fits.
    """
    places = [Path(folder) for folder in folders]
    results = read_results(places)
    refuse_mixtures(results, ("ratio",))
    refuse_other_images(results)
    speeds = _speeds(places)
    dense = list(dense_of(results).values())
    if not dense:
        raise ValueError(
            "there is no result of the dense network (method baseline), or several and none by the name "
            f"{results[0].dataset}_{BASELINE}: delta is against it"
        )
    points, seen = [], set()
    for result in results:
        key = result.label, result.ratio
        if key in seen:
            continue
        seen.add(key)
        own = [other for other in results if (other.label, other.ratio) == key]
        change = 0.0 if result in dense else _delta(own, dense)
        for name in dict.fromkeys(other.name for other in own):
            for content in speeds.get(name, []):
                points += _points(result, change, content, batch, threads)
    if not points:
        raise ValueError(
            f"no *_speed.json in {', '.join(map(str, places))} is of a network with results, batch {batch}, "
            f"{threads} threads: python3 -m benchmarks.engines FILE --dest DIR writes them"
        )
    return points


def _delta(own: Sequence[Result], dense: Sequence[Result]) -> float:
    entry = next(
        entry for entry in gather([*own, *dense], own[0].protocol, {}) if entry.label == own[0].label
    )
    values = [value for value in entry.values.get(DELTA, {}).values() if math.isfinite(value)]
    return fmean(values) if values else math.nan


def _speeds(places: Iterable[Path]) -> dict[str, list[dict[str, Any]]]:
    """Name of a network -> its speed files."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        for path in sorted(place.rglob("*_speed.json")):
            content = read_json(path)
            try:
                name = Path(content["file"]).stem
                rows = [(row["runtime"], float(row["milliseconds"]["median"])) for row in content["rows"]]
                sizes = {kind: float(size) for kind, size in content["bytes"].items()}
            except (KeyError, TypeError, ValueError, AttributeError):
                raise ValueError(f"{path} is not what prune_utils.deploy.benchmark writes") from None
            if not rows or not {"dense", "sparse"} <= set(sizes):
                raise ValueError(f"{path} is not what prune_utils.deploy.benchmark writes")
            for prefix in ("best_", "final_"):
                name = name.removeprefix(prefix)
            found.setdefault(name, []).append(content)
    return found


def _points(result: Result, change: float, content: dict[str, Any], batch: int, threads: int) -> list[Point]:
    rows = [row for row in content["rows"] if (row.get("batch"), row.get("threads")) == (batch, threads)]
    counted: dict[str, float] = next((row["operations"] for row in rows if "operations" in row), {})
    ratio = "" if result.ratio is None else f" {result.ratio:g} %"
    points = []
    for row in rows:
        skips = row.get("kind") == "ours"
        points.append(
            Point(
                f"{result.label}{ratio}",
                row["runtime"],
                change,
                float(row["milliseconds"]["median"]),
                float(counted.get("kept" if skips else "all", math.nan)),
                content["bytes"]["sparse" if skips else "dense"] / 1e6,
                float(row.get("memory", math.nan)),
            )
        )
    return points


# ----------------------------------------------------------------------------------------- showing
def frontier(points: Sequence[Point], cost: Callable[[Point], float]) -> list[Point]:
    """Those that no other beats: cheaper and no worse, or better and no dearer; cheapest first."""
    known = [point for point in points if math.isfinite(cost(point)) and math.isfinite(point.delta)]
    best, kept = -math.inf, []
    for point in sorted(known, key=lambda point: (cost(point), -point.delta)):
        if point.delta > best:
            best = point.delta
            kept.append(point)
    return kept


def markdown(points: Sequence[Point], title: str) -> str:
    """The table; a star marks what is on the frontier of latency."""
    star = set(map(id, frontier(points, attrgetter("latency"))))
    names = [f"{name} {unit}" for name, unit in COSTS.values()]
    lines = [f"# Scores against cost, {title}", "", f"| network | runtime | delta % | {' | '.join(names)} |"]
    lines.append("| --- | --- | ---: |" + " ---: |" * len(names))
    for point in sorted(points, key=lambda point: point.latency):
        values = [_number(getattr(point, field)) for field in COSTS]
        mark = " *" if id(point) in star else ""
        lines.append(
            f"| {point.network}{mark} | {point.runtime} | {_number(point.delta, 2)} | {' | '.join(values)} |"
        )
    return "\n".join([*lines, "", "\\* = nothing here is both faster and better.", ""])


def _number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def draw(points: Sequence[Point], title: str, path: Path) -> Path:
    """A panel for every cost; colours are runtimes, shapes networks, the line is the frontier."""
    from matplotlib.lines import Line2D

    figure = new_figure(12.0, 9.0)
    runtimes = list(dict.fromkeys(point.runtime for point in points))
    networks = list(dict.fromkeys(point.network for point in points))
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(runtimes)}
    shapes = {name: MARKERS[at % len(MARKERS)] for at, name in enumerate(networks)}
    for axes, (field, (name, unit)) in zip(figure.subplots(2, 2).flat, COSTS.items(), strict=True):
        plain_axes(axes)
        axes.axhline(0, color=FAINT, linewidth=1.2)
        edge = frontier(points, attrgetter(field))
        axes.plot(
            [getattr(p, field) for p in edge], [p.delta for p in edge], color=INK, linewidth=1.0, zorder=1
        )
        for point in points:
            x = getattr(point, field)
            if math.isfinite(x) and math.isfinite(point.delta):
                axes.plot(
                    x,
                    point.delta,
                    shapes[point.network],
                    color=colours[point.runtime],
                    markersize=9,
                    alpha=0.85,
                )
        axes.set_xlim(left=0)
        axes.set_xlabel(f"{name}, {unit}", fontsize=12)
        axes.set_ylabel("delta against dense, %", fontsize=12)
    keys = [
        Line2D([], [], color=colours[n], marker="o", linestyle="", markersize=8, label=n) for n in runtimes
    ]
    keys += [
        Line2D([], [], color=INK, marker=shapes[n], linestyle="", markersize=8, label=n) for n in networks
    ]
    keys.append(Line2D([], [], color=INK, linewidth=1.0, label="nothing is cheaper and better"))
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=12)
    figure.suptitle(f"What a network keeps against what it costs, {title}", color=INK, fontsize=14)
    return write_figure(figure, path)


if __name__ == "__main__":
    sys.exit(main())
