"""Results gathered by method: each entry is a row to be, with its values by seed.

`delta` is the one figure for a multitask network: its relative change against the dense one, the mean over
tasks of the mean over a task's measures, each signed so that up is better (Maninis et al., CVPR 2019, there
with one measure a task).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from common.constant import beats
from common.names import BASELINE
from prune_utils.changes import change

from .results import DENSE, Column, Result, mixed

OTHER = "other"
UNTOLD = "data and network not told"  # by a result file that is older than remarks
DELTA = Column("", "delta", "%", True)
ALONE = "delta alone"  # the same against networks for one task each
FORMULA_ALONE = (
    "delta alone: the same formula with dense = the dense networks for one task each, of the row's own width "
    "or the one that is named; s as above, so that up is better"
)
FORMULA = (
    "delta = 100 % x mean over tasks of mean over the task's measures of s (value - dense) / |dense|, "
    "s = +1 where larger is better, else -1; dense has the same seed"
)


@dataclass
class Entry:
    """A method at a sparsity. group: its setup; density: measured, mean over seeds.

    remarks: what sets the data and the networks behind it apart from the data set's own settings.
    values: column -> seed -> value; constant: likewise of the best constant answers.
    source: "" = measured here, else what stands behind the label.
    """

    group: str
    label: str
    method: str
    density: float
    values: dict[Column, dict[int, float]] = field(default_factory=dict)
    source: str = ""
    remarks: tuple[str, ...] = ()
    constant: dict[Column, dict[int, float]] = field(default_factory=dict)

    def beats_constant(self, column: Column) -> bool:
        """Whether its mean is better than the constant's, over the seeds that have both; True without any."""
        constant, values = self.constant.get(column, {}), self.values.get(column, {})
        seeds = [seed for seed in constant if math.isfinite(values.get(seed, math.nan))]
        if not seeds:
            return True
        means = fmean(values[seed] for seed in seeds), fmean(constant[seed] for seed in seeds)
        return beats(*means, column.larger)

    @property
    def title(self) -> str:
        return f"{self.label} ({self.source})" if self.source else self.label

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of its values; published figures have none."""
        return () if self.source else tuple(sorted({seed for by in self.values.values() for seed in by}))


def gather(results: Sequence[Result], protocol: str, setups: Mapping[str, str]) -> list[Entry]:
    """Entries in the order of `setups` (method -> group, the dense network goes before), values by seed.

    protocol: which of the two metric protocols. Where the results differ in data set, split, ... the labels
    say so. delta is there for every seed that has a dense result (`dense_of`) alike in everything else.
    """
    apart = mixed(list(results))
    dense = dense_of(results)
    alone = singles_of(results, protocol)
    gathered: dict[tuple, list[Result]] = {}
    for result in results:
        marks = tuple(getattr(result, name) for name in apart)
        gathered.setdefault((result.label, marks), []).append(result)
    entries = []
    for (label, marks), members in gathered.items():
        first = members[0]
        shown = [_mark(name, value) for name, value in zip(apart, marks, strict=True) if value is not None]
        group = DENSE if first.method == BASELINE else setups.get(first.method, OTHER)
        values: dict[Column, dict[int, float]] = {}
        constant: dict[Column, dict[int, float]] = {}
        for result in members:
            own = result.values[protocol]
            for column, value in own.items():
                values.setdefault(column, {})[result.seed] = value
            for column, value in result.constant.get(protocol, {}).items():
                constant.setdefault(column, {})[result.seed] = value
            base = dense.get(_family(result))
            if base:
                change = delta(own, base.values[protocol])
                values.setdefault(DELTA, {})[result.seed] = change
            for width, singles in alone.get(_family(result), {}).items():
                if len(result.tasks) > 1 and set(result.tasks) <= {column.task for column in singles}:
                    name = ALONE if width == result.width else f"{ALONE} at width {width:g}"
                    column = Column("", name, "%", True)
                    values.setdefault(column, {})[result.seed] = delta(own, singles)
        title = " ".join([label, *shown])
        density = fmean(result.density for result in members)
        said = [result.remarks for result in members]
        remarks = tuple(dict.fromkeys(word for words in said for word in (words or ())))
        remarks += (UNTOLD,) if None in said else ()
        entries.append(Entry(group, title, first.method, density, values, remarks=remarks, constant=constant))
    return in_order(entries, setups)


def in_order(entries: list[Entry], setups: Mapping[str, str]) -> list[Entry]:
    """Dense first, then group by group and method by method as `setups` lists them."""
    groups = [DENSE, *dict.fromkeys(setups.values()), OTHER]
    methods = [BASELINE, *setups]
    return sorted(
        entries,
        key=lambda entry: (
            groups.index(entry.group),
            methods.index(entry.method) if entry.method in methods else len(methods),
            entry.label,
            entry.source,
        ),
    )


def columns_of(entries: Sequence[Entry]) -> list[Column]:
    """Every column of any entry in the order of appearance, deltas last, where one has a number in it."""
    seen = dict.fromkeys(column for entry in entries for column in entry.values)
    known = [
        column
        for column in seen
        if any(math.isfinite(v) for e in entries for v in e.values.get(column, {}).values())
    ]
    return sorted(known, key=lambda column: not column.task)


def dense_of(results: Sequence[Result]) -> dict[tuple, Result]:
    """Family -> the dense network that its results are compared with: the one of that name, else the only one
    that has several tasks."""
    found: dict[tuple, list[Result]] = {}
    for result in results:
        if result.method == BASELINE and (result.label == DENSE or len(result.tasks) > 1):
            found.setdefault(_family(result), []).append(result)
    chosen = {}
    for of, there in found.items():
        named = [result for result in there if result.label == DENSE]
        if named or len(there) == 1:
            chosen[of] = (named or there)[0]
    return chosen


def singles_of(results: Sequence[Result], protocol: str) -> dict[tuple, dict[float, dict[Column, float]]]:
    """Family -> width -> measures of the dense networks that have one task, all tasks together."""
    found: dict[tuple, dict[float, dict[Column, float]]] = {}
    for result in results:
        if result.method == BASELINE and len(result.tasks) == 1:
            of = found.setdefault(_family(result), {}).setdefault(result.width, {})
            of.update(result.values[protocol])
    return found


def _family(result: Result) -> tuple:
    return result.dataset, result.protocol, result.split, result.seed


def _mark(name: str, value: object) -> str:
    return f"[{value:g} %]" if name == "ratio" else f"[{value}]"


def delta(values: Mapping[Column, float], dense: Mapping[Column, float]) -> float:
    """Percent, above 0 is better than dense. Over the columns that both have.

    nan where a value is nan, a dense value is 0, or there is no common column.
    """
    changes: dict[str, list[float]] = {}
    for column, value in values.items():
        if column in dense:
            changes.setdefault(column.task, []).append(change(value, dense[column], column.larger))
    return 100 * fmean(map(fmean, changes.values())) if changes else math.nan
