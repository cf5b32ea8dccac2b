"""What is printed, before it has a format: cells with text, bold or not, in groups of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from common import constant
from common.choices import not_one_of

from .entries import DELTA, Entry, columns_of
from .results import DENSE, Column
from .verdicts import SAME, Verdict, paired

ARROWS = {True: "↑", False: "↓"}
MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """text, and whether it is the best of its group."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """title; header: one text a column; rows: (group, cells); notes: lines below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of the finite values; nan for what there are too few of."""
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else math.nan, stdev(finite) if len(finite) > 1 else math.nan


def heading(column: Column) -> str:
    """`seg mIoU % ↑`."""
    words = (column.task, column.metric, column.unit, ARROWS[column.larger])
    return " ".join(word for word in words if word)


def decimals(column: Column, means: Sequence[float]) -> int:
    """Digits behind the point: 2 for percent and degrees, else four figures of the largest mean."""
    if column.unit in ("%", "deg"):
        return 2
    largest = max((abs(mean) for mean in means if math.isfinite(mean)), default=0.0)
    return min(max(3 - math.floor(math.log10(largest)), 0), 8) if largest else 4


def number(mean: float, deviation: float, digits: int) -> str:
    """`12.34 ± 0.56`, without the deviation where there is none."""
    if not math.isfinite(mean):
        return MISSING
    text = f"{mean:.{digits}f}"
    return f"{text} ± {deviation:.{digits}f}" if math.isfinite(deviation) else text


def score_grid(
    entries: Sequence[Entry], title: str, notes: Sequence[str] = (), only: Sequence[Column] = ()
) -> Grid:
    """A row for each entry: seeds, density, every measure; in each group the best measured mean is bold.

    A mean that does not beat the best constant answer carries a mark and is never the best. only: columns,
    where not all are wanted.
    """
    columns = only or columns_of(entries)
    texts: dict[Column, list[Cell]] = {}
    for column in columns:
        spreads = [spread(tuple(entry.values.get(column, {}).values())) for entry in entries]
        digits = decimals(column, [mean for mean, _ in spreads])
        best = _best(entries, [mean for mean, _ in spreads], column, digits)
        texts[column] = [
            Cell(number(mean, deviation, digits) + _mark(entries[place], column), place in best)
            for place, (mean, deviation) in enumerate(spreads)
        ]
    rows = []
    for place, entry in enumerate(entries):
        kept = MISSING if math.isnan(entry.density) else f"{100 * entry.density:.2f}"
        seeds = str(len(entry.seeds)) if entry.seeds else MISSING
        lead = (Cell(entry.title), Cell(seeds), Cell(kept))
        rows.append((entry.group, (*lead, *(texts[column][place] for column in columns))))
    header = ("method", "seeds", "kept %", *map(heading, columns))
    if any(_mark(entry, column) for entry in entries for column in columns):
        notes = [constant.NOTE, *notes]
    return Grid(title, header, tuple(rows), tuple(notes))


def _mark(entry: Entry, column: Column) -> str:
    return "" if entry.beats_constant(column) else constant.MARK


def _best(entries: Sequence[Entry], means: Sequence[float], column: Column, digits: int) -> set[int]:
    """Places of the best measured means of each group with at least two, as printed."""
    best: set[int] = set()
    for group in {entry.group for entry in entries} - {DENSE}:
        known = [
            (round(means[place], digits), place)
            for place, entry in enumerate(entries)
            if entry.group == group and not entry.source and math.isfinite(means[place])
        ]
        if len(known) > 1:
            top = (max if column.larger else min)(mean for mean, _ in known)
            best |= {place for mean, place in known if mean == top and entries[place].beats_constant(column)}
    return best


def verdict_grid(entries: Sequence[Entry], against: str, columns: Sequence[Column]) -> Grid:
    """Every measured entry against the one labelled `against`, paired by seed, in each of the columns.

    ValueError with the choices if there is no such entry.
    """
    measured = [entry for entry in entries if not entry.source]
    reference = next((entry for entry in measured if entry.label == against), None)
    if reference is None:
        choices = [entry.label for entry in measured]
        raise ValueError(not_one_of("method to compare with", against, choices))
    rows = []
    for column in columns:
        theirs = reference.values.get(column, {})
        for entry in measured:
            if entry is not reference and column in entry.values:
                rows.append((entry.group, _verdict_row(entry, column, theirs)))
    header = ("method", "measure", f"minus {against}", "95 % interval", "seeds", "verdict")
    return Grid(f"against {against}, seed by seed", header, tuple(rows))


def _verdict_row(entry: Entry, column: Column, theirs: dict[int, float]) -> tuple[Cell, ...]:
    own = entry.values[column]
    verdict = paired(own, theirs, column.larger)
    difference, interval = difference_and_interval(verdict, decimals(column, list(own.values())))
    word = Cell(verdict.word, verdict.word != SAME)
    return (
        Cell(entry.label),
        Cell(heading(column)),
        Cell(difference),
        Cell(interval),
        Cell(str(verdict.seeds)),
        word,
    )


def difference_and_interval(verdict: Verdict, digits: int) -> tuple[str, str]:
    """Both as a table says them; MISSING for what too few seeds leave open."""
    difference = f"{verdict.difference:+.{digits}f}" if math.isfinite(verdict.difference) else MISSING
    known = math.isfinite(verdict.low)
    return difference, f"{verdict.low:+.{digits}f} .. {verdict.high:+.{digits}f}" if known else MISSING


def measures(entries: Sequence[Entry], asked: str | None) -> list[Column]:
    """Columns to judge by: "delta", "all" or "task metric"; None = delta if there is one, else all.

    ValueError with the choices.
    """
    columns = columns_of(entries)
    if asked is None:
        return [DELTA] if DELTA in columns else columns
    if asked == "all":
        return columns
    chosen = [column for column in columns if asked in (f"{column.task} {column.metric}".strip(),)]
    if not chosen:
        choices = ["all", *(f"{c.task} {c.metric}".strip() for c in columns)]
        raise ValueError(not_one_of("measure", asked, choices))
    return chosen
