"""What a paper says of two rows, beside what a tier of a study found of them.

Intervals are those of `verdicts.paired`, not corrected: the corrected verdicts are the primary family's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .entries import Entry
from .grid import MISSING, Cell, Grid, decimals, difference_and_interval, heading
from .results import Column
from .verdicts import BETTER, SAME, WORSE, Verdict, paired

HOLDS, REVERSED, UNDECIDED = "holds", "the reverse holds", "undecided"


@dataclass(frozen=True)
class Claim:
    """says: one sentence, that `row` is better than `against`. tier: where both rows are.

    differs: what may be otherwise where the claim was made.
    """

    says: str
    row: str
    against: str
    tier: str
    differs: str


def claims_grid(
    title: str, claims: Sequence[Claim], entries: Mapping[str, Entry], columns: Sequence[Column]
) -> Grid:
    """A row for each claim: the difference in every column with its interval, and what follows from them."""
    rows = []
    for claim in claims:
        cells, words = [Cell(f"{claim.row} minus {claim.against}")], {}
        for column in columns:
            own, other = (entries[name].values[column] for name in (claim.row, claim.against))
            verdict = paired(own, other, column.larger)
            words[f"{column.task} {column.metric}"] = verdict.word
            cells.append(_difference(verdict, decimals(column, list(own.values()))))
        cells += [Cell(_conclusion(words), SAME not in words.values()), Cell(claim.differs)]
        rows.append((claim.says, tuple(cells)))
    header = ("measured", *map(heading, columns), "here", "what may be otherwise")
    return Grid(title, header, tuple(rows), ("95 % intervals of the paired t-test, not corrected",))


def _difference(verdict: Verdict, digits: int) -> Cell:
    difference, interval = difference_and_interval(verdict, digits)
    return Cell(difference if interval == MISSING else f"{difference} ({interval})", verdict.word != SAME)


def _conclusion(words: Mapping[str, str]) -> str:
    """words: measure -> better, worse or not distinguishable."""
    found = set(words.values())
    for word, conclusion in ((BETTER, HOLDS), (WORSE, REVERSED), (SAME, UNDECIDED)):
        if found == {word}:
            return conclusion
    told = (
        f"{word} in {', '.join(measure for measure, of in words.items() if of == word)}"
        for word in (BETTER, WORSE)
        if word in found
    )
    return "; ".join([*told, *(["the rest undecided"] if SAME in found else [])])
