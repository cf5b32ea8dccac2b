"""Tables of the benchmark of contracts, from the JSON files of its pieces alone."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from scipy import stats

from common.files import read_json
from common.text import table
from workflow.judging import Fall, kept, to_certify

Row = dict[str, Any]
Limits = Mapping[str, float]
SEARCHES = ("contract", "uniform")
NONE = "-"


class Reached(NamedTuple):
    """Weights kept, percent; None = no network. seen: by the smallest that keeps the limits on the search's
    half; certified: by the one that the certificate's half lets pass."""

    seen: float | None
    certified: float | None


def tables(folder: Path) -> str:
    """Everything that the files of a folder tell. FileNotFoundError where it holds none, ValueError where
    they do not belong together."""
    found = [read_json(path) for path in sorted(folder.glob("seed*.json"))]
    if not found:
        raise FileNotFoundError(
            f"there is no file of a piece in {folder}: run the benchmark without --table first"
        )
    _require_one_kind(folder, found)
    parts = {part: [one for one in found if one["part"] == part] for part in ("dense", "promise", "sizes")}
    lines = [
        f"{part}: {len(of)} pieces, {sum(one['steps'] for one in of):,} steps of training"
        for part, of in parts.items()
    ]
    for part, write in (("promise", promises), ("sizes", sizes)):
        lines += ["", *write(parts[part])] if parts[part] else []
    return "\n".join(lines)


def _require_one_kind(folder: Path, found: Sequence[Row]) -> None:
    """ValueError for files whose rates and means would say nothing together."""
    for what, of in (
        ("dataset", found),
        ("digest", found),
        ("bound", [one for one in found if one["part"] != "dense"]),
        ("level", [one for one in found if one["part"] == "promise"]),
        ("level", [one for one in found if one["part"] == "sizes"]),
    ):
        kinds = sorted({str(one.get(what, "unknown")) for one in of})
        if len(kinds) > 1:
            raise ValueError(
                f"the files in {folder} are of several kinds, {what} {' and '.join(kinds)}: a folder for each"
            )


# ---------------------------------------------------------------------------- promises
def promises(found: Sequence[Row]) -> Iterator[str]:
    """Every contract, then how often what validation promised is kept on test."""
    level, rows, counts = found[0]["level"], [], Counter[str]()
    for one in sorted(found, key=lambda one: one["seed"]):
        seen = _smallest(one)
        about = [one["seed"], one["limits"], NONE if seen is None else f"{seen:.1f}"]
        if not one["certified"]:
            counts["asked"] += 1
            said = "no smaller network" if seen is None else "refused a certificate"
            counts.update({"refused": seen is not None})
            rows.append([*about, NONE, said, NONE, NONE])
            continue
        wanted, there = _limits(one), _falls(one["validation"]["certificate"]["drops"])
        about += [f"{_percent(one):.1f}", ", ".join(f"{n} {_two(there[n].bound)}" for n in wanted)]
        if one["test"] is None:
            counts["untested"] += 1
            rows.append([*about, NONE, "no test split"])
            continue
        here = _falls(one["test"]["drops"])
        broken = [name for name, limit in wanted.items() if not here[name].drop <= limit]
        sure = [n for n in broken if 2 * here[n].drop - here[n].bound > wanted[n]]
        counts.update({"asked": 1, "certified": 1, "broken": bool(broken), "surely": bool(sure)})
        for name in (name for name, limit in wanted.items() if limit < math.inf):
            counts.update({f"of {name}": 1, f"broken {name}": name in broken})
        counts.update({"bounds": len(wanted), "too low": sum(there[n].bound < here[n].drop for n in wanted)})
        lost = ", ".join(f"{n} {_two(here[n].drop)}" for n in wanted)
        rows.append([*about, lost, f"broken: {', '.join(broken)}" if broken else "kept"])
    header = ("seed", "limits", "search %", "certified %", "lost at most %", "test, lost %", "on test")
    yield (
        "weights kept, %: by the smallest network that keeps the limits on the search's half, and by the "
        "certified one; what it loses at most on the certificate's half; what it loses on test"
    )
    yield table(rows, header)
    yield ""
    if counts["untested"]:
        yield f"certified without a test split, not counted: {counts['untested']}"
    tasks = [name.removeprefix("of ") for name in counts if name.startswith("of ")]
    asked = _rate("contracts asked for", counts["broken"], counts["asked"])
    yield asked + (f"; level {level:g} allows {100 * (1 - level):.1f} %" if counts["asked"] else "")
    yield _rate("contracts certified", counts["broken"], counts["certified"])
    for name in tasks:
        yield _rate(f"promises for {name}", counts[f"broken {name}"], counts[f"of {name}"])
    if counts["bounds"]:
        share = 100 * counts["too low"] / counts["bounds"]
        yield (
            f"bounds of the certificate's half below what test lost: {counts['too low']} of "
            f"{counts['bounds']}, {share:.1f} %"
        )
    yield (
        f"of the {counts['broken']} broken on test, {counts['surely']} by more than about what the test "
        f"images leave open at level {level:g}"
    )
    yield f"searches that found networks of which none was certified: {counts['refused']}"
    yield (
        "intervals are over trainings and over the halves into which the same validation photographs are "
        "dealt, for these photographs of validation and test"
    )


def _rate(what: str, broken: int, count: int) -> str:
    """How many were broken, with the exact interval of the rate (Clopper and Pearson, 1934)."""
    if not count:
        return f"{what}: none"
    low, high = stats.binomtest(broken, count).proportion_ci(0.95, method="exact")
    return (
        f"{what}: {count}, broken on test {broken}, {100 * broken / count:.1f} % (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f})"
    )


# ------------------------------------------------------------------------------- sizes
def sizes(found: Sequence[Row]) -> Iterator[str]:
    """Weights kept by limits and way, each seed, and the mean over the seeds in which every way ended."""
    wanted = {one["limits"]: _limits(one) for one in found if one["limits"] is not None}
    grid = {one["kind"]: None for one in found if one["limits"] is None}
    ways, seeds = (*SEARCHES, *grid), sorted({one["seed"] for one in found})
    header = ("limits", "way", *(f"seed {seed}" for seed in seeds), "mean", "to the grid", "in its sizes")
    rows: list[Sequence[object]] = []
    for limits, of in wanted.items():
        by_way = {way: [reached(found, way, seed, limits, of) for seed in seeds] for way in ways}
        best = [_best([by_way[way][place] for way in grid]) for place in range(len(seeds))]
        steps = grid_sizes(found)
        for way, row in by_way.items():
            rounded = [one and Reached(*(_up(size, steps) for size in one)) for one in row]
            rows.append((limits, way, *map(_cell, row), _mean(row), _ratio(row, best), _ratio(rounded, best)))
    yield (
        "weights kept, %: the smallest network that keeps the limits on the search's half / the one that is "
        f"certified, at level {found[0]['level']:g}; {NONE} = none, 100 in the mean"
    )
    yield (
        "to the grid: the size by that of the best of its ways, geometric mean over the seeds in which both "
        "found one; in its sizes: the same after rounding up to the next size of the grid, which has few"
    )
    yield table(rows, header)
    yield steps_taken(found)
    for way in SEARCHES:
        yield monotony(found, way, wanted, seeds)


def monotony(found: Sequence[Row], way: str, wanted: Mapping[str, Limits], seeds: Sequence[int]) -> str:
    """How often a looser limit gave a larger network: over seeds, and pairs of limits of which one is at no
    task tighter and at some task looser. No network counts as the dense one."""
    count, larger = 0, []
    for seed in seeds:
        sizes = {limits: reached(found, way, seed, limits, of) for limits, of in wanted.items()}
        seen = {limits: one.seen or 100.0 for limits, one in sizes.items() if one is not None}
        for tight, loose in itertools.permutations(seen, 2):
            if wanted[tight] != wanted[loose] and _within(wanted[tight], wanted[loose]):
                count += 1
                if seen[loose] > seen[tight]:
                    larger.append(
                        (
                            seen[loose] / seen[tight],
                            f"seed {seed}: {tight} {seen[tight]:.1f} %, {loose} {seen[loose]:.1f} %",
                        )
                    )
    worst = f", most of all {max(larger)[1]}" if larger else ""
    return f"{way}: a looser limit gave a larger network in {len(larger)} of {count} pairs{worst}"


def _within(tight: Limits, loose: Limits) -> bool:
    return tight.keys() == loose.keys() and all(tight[name] <= loose[name] for name in tight)


def reached(found: Sequence[Row], way: str, seed: int, limits: str, wanted: Limits) -> Reached | None:
    """What a way reached for a seed; None = its pieces are not there."""
    mine = [one for one in found if one["kind"] == way and one["seed"] == seed]
    if way not in SEARCHES:
        ratios = {ratio for one in found if one["ratio"] is not None for ratio in one["ratios"]}
        return of_grid(mine, wanted) if len(mine) == len(ratios) else None  # a part would seem too large
    one = next((one for one in mine if one["limits"] == limits), None)
    if one is None:
        return None
    return Reached(_smallest(one), _percent(one) if one["certified"] else None)


def of_grid(networks: Sequence[Row], wanted: Limits) -> Reached:
    """The smallest network of a grid that keeps the limits, before or after its fine-tuning, found and
    certified as a contract's are."""
    looks = [look for one in networks for look in one["looks"].values()]
    halves = [_halves(one, wanted) for one in looks]
    found = [(place, _percent(one), halves[place][0]) for place, one in enumerate(looks)]
    seen = [size for _, size, falls in found if kept(falls, wanted)]
    passed = None
    for place in to_certify(found, wanted):
        if not kept(halves[place][1], wanted):
            break
        passed = _percent(looks[place])
    return Reached(min(seen, default=None), passed)


def grid_sizes(found: Sequence[Row]) -> list[float]:
    """Weights kept by the networks of the grid, percent, and all."""
    return sorted({100.0, *(100 - one["ratio"] for one in found if one["ratio"] is not None)})


def steps_taken(found: Sequence[Row]) -> str:
    """Steps of training by way: of a search of all its rounds, of a grid of all its networks for a seed."""
    said = []
    for way in dict.fromkeys(one["kind"] for one in found):
        mine = [one for one in found if one["kind"] == way]
        runs = len(mine) if way in SEARCHES else len({one["seed"] for one in mine})
        said.append(f"{way} {sum(one['steps'] for one in mine) / runs:.0f}")
    return "steps of training a search, a grid: " + ", ".join(said)


def _halves(one: Row, wanted: Limits) -> tuple[dict[str, Fall], dict[str, Fall]]:
    """What a network of the grid loses on the search's half, and on the certificate's."""
    search, certificate = (_falls(one["losses"][half]) for half in ("search", "certificate"))
    return {name: search[name] for name in wanted}, {name: certificate[name] for name in wanted}


def _best(ways: Sequence[Reached | None]) -> Reached | None:
    """The smallest of all ways of the grid; None where one of them is not whole."""
    there = [one for one in ways if one is not None]
    if not there or len(there) < len(ways):
        return None
    return Reached(*(min((size for size in of if size is not None), default=None) for of in _turned(there)))


def _turned(row: Sequence[Reached]) -> list[tuple[float | None, ...]]:
    """What was seen of all, and what was certified of all."""
    return list(zip(*row, strict=True))


def _up(size: float | None, steps: Sequence[float]) -> float | None:
    """The next larger of the steps; sizes are whole weights, so that a hair above one is that one."""
    return size if size is None else next((step for step in steps if size <= step * 1.001), 100.0)


def _cell(one: Reached | None) -> str:
    return "" if one is None else " / ".join(NONE if x is None else f"{x:.1f}" for x in one)


def _mean(row: Sequence[Reached | None]) -> str:
    """Over all seeds, a network that is missing counted as the dense one; "" where a piece is not there."""
    if None in row:
        return ""
    both = _turned([one for one in row if one is not None])
    return " / ".join(f"{fmean(100.0 if x is None else x for x in of):.1f}" for of in both)


def _ratio(row: Sequence[Reached | None], best: Sequence[Reached | None]) -> str:
    """The geometric mean, over seeds in which both found one, of the size by the best of the grid's: of what
    was seen, and of what was certified."""
    pairs = [(one, of) for one, of in zip(row, best, strict=True) if one is not None and of is not None]
    found = []
    for place in range(len(Reached._fields)):
        sizes = [(one[place], of[place]) for one, of in pairs]
        logs = [math.log(mine / least) for mine, least in sizes if mine is not None and least is not None]
        found.append(f"{math.exp(fmean(logs)):.2f}" if logs else NONE)
    return " / ".join(found)


# ------------------------------------------------------------------------------ reading
def _percent(one: Row) -> float:
    return 100 * one["kept"] / one["total"]


def _smallest(one: Row) -> float | None:
    """Weights kept, percent, by the smallest network of a search that keeps the limits there."""
    return min((100 - row["sparsity"] for row in one["rounds"] if row["kept"]), default=None)


def _two(number: float) -> str:
    return f"{round(number, 2) + 0.0:.2f}"  # no "-0.00"


def _limits(one: Row) -> dict[str, float]:
    return {name: math.inf if limit is None else limit for name, limit in one["wanted"].items()}


def _falls(drops: Mapping[str, Mapping[str, float | None]]) -> dict[str, Fall]:
    """Drops of a file; what was no number there keeps no limit."""
    return {
        name: Fall(*(math.nan if of[key] is None else float(of[key] or 0) for key in Fall._fields))
        for name, of in drops.items()
    }
