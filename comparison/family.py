"""The verdicts on a plan's primary family, corrected by Holm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .entries import Entry, columns_of
from .grid import Cell, Grid, decimals, difference_and_interval, heading
from .plan import CONTROL, SHUFFLE, Plan, family_tests
from .results import Column
from .verdicts import BETTER, SAME, WORSE, Verdict, holm, paired

UNTESTED = "not tested"
SIGNS = {BETTER: "+", WORSE: "-", SAME: "0"}


@dataclass(frozen=True)
class Compared:
    """A primary test: row against other in a measure. p: corrected over the family; word: the verdict."""

    row: str
    other: str
    measure: str
    column: Column
    digits: int
    verdict: Verdict
    p: float
    word: str


def compared(plan: Plan, rows: Sequence[Entry]) -> list[Compared]:
    """Every test of the family, paired by seed. rows: of the family's tier, complete."""
    entries = {entry.label: entry for entry in rows}
    columns = {f"{c.task} {c.metric}": c for c in columns_of(rows)}
    tests = family_tests(plan)
    verdicts = [
        paired(entries[row].values[columns[m]], entries[other].values[columns[m]], columns[m].larger)
        for row, other, m in tests
    ]
    found = []
    for (row, other, m), verdict, p in zip(tests, verdicts, holm([v.p for v in verdicts]), strict=True):
        column = columns[m]
        digits = decimals(column, list(entries[row].values[column].values()))
        better = (verdict.difference > 0) == column.larger
        word = SAME if math.isnan(p) or p > plan.level else BETTER if better else WORSE
        found.append(Compared(row, other, m, column, digits, verdict, p, word))
    return found


def glance_grid(plan: Plan, tests: Sequence[Compared]) -> Grid:
    """A row of the family in each row, a rival in each column, a sign for every measure."""
    rivals = [other for other in plan.against if any(_is(test, other) for test in tests)]
    rows = []
    for row in plan.family_rows:
        cells = []
        for rival in rivals:
            words = [test.word for test in tests if test.row == row and _is(test, rival)]
            signs = " ".join(SIGNS[word] for word in words)
            cells.append(Cell(signs or UNTESTED, any(word != SAME for word in words)))
        rows.append((row, tuple(cells)))
    measures = ", ".join(plan.effects)
    notes = (
        f"+ better, - worse, 0 neither, in {measures}, in this order; corrected over {len(tests)} tests",
    )
    return Grid(
        "primary family at a glance", tuple(f"against {rival}" for rival in rivals), tuple(rows), notes
    )


def _is(test: Compared, rival: str) -> bool:
    """Whether a test is against this rival, as the plan names it."""
    return test.other == (test.row + CONTROL if rival == SHUFFLE else rival)


def family_grid(plan: Plan, tests: Sequence[Compared]) -> Grid:
    """Every test with its difference, interval and corrected p-value."""
    rows = []
    for test in tests:
        cells = (
            Cell(f"minus {test.other}"),
            Cell(heading(test.column)),
            Cell(str(test.verdict.seeds)),
            *map(Cell, difference_and_interval(test.verdict, test.digits)),
            Cell(f"{test.p:.3g}"),
            Cell(test.word, test.word != SAME),
        )
        rows.append((test.row, cells))
    header = (
        "against",
        "measure",
        "seeds",
        "difference",
        "95 % interval (uncorrected)",
        "p (Holm)",
        "verdict",
    )
    notes = [f"{len(tests)} tests; the chance of any false call among them is at most {plan.level:g}"]
    if any(test.verdict.seeds < len(plan.family.seeds) for test in tests):
        notes.append(
            "where seeds are fewer, a score of the others was no number, and the verdict is on the rest"
        )
    title = f"primary family, {plan.family.ratio:g} %, {len(plan.family.seeds)} seeds"
    return Grid(title, header, tuple(rows), tuple(notes))
