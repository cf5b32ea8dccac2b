"""Results to what is shown: the table of scores, the verdicts, and the notes that make them understood."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.choices import not_one_of
from common.names import BASELINE, PROTOCOLS
from prune_utils.methods import METHODS

from . import published
from .entries import (
    ALONE,
    DELTA,
    FORMULA,
    FORMULA_ALONE,
    UNTOLD,
    Entry,
    columns_of,
    dense_of,
    gather,
    in_order,
)
from .grid import Grid, measures, score_grid, verdict_grid
from .render import FORMATS, comma_separated
from .results import (
    APART,
    DENSE,
    Result,
    differing_machines,
    differing_pruning,
    differing_settings,
    mixed,
    read_results,
    refuse_mixtures,
    refuse_other_images,
)
from .verdicts import LEVEL, by_chance, quantile

NOBODY = "none"
GROUPS = ("static", "dynamic", "gradual", "pretrained")


@dataclass(frozen=True)
class Options:
    """What is to be shown. metric_protocol: None = that of the results; mix: fields that may differ.

    against: label that the verdicts compare with, None = the dense network if it is there; measure: see
    grid.measures.
    """

    metric_protocol: str | None = None
    mix: tuple[str, ...] = ()
    published: bool = False
    against: str | None = None
    measure: str | None = None


@dataclass(frozen=True)
class Report:
    """entries: the rows with all values; scores and verdicts: ready for any format."""

    entries: list[Entry]
    scores: Grid
    verdicts: Grid | None

    def text(self, form: str, **options: bool) -> str:
        """In a format: terminal, markdown, latex; csv holds the scores only."""
        if form == "csv":
            return comma_separated(self.entries).rstrip("\n")
        grids = [grid for grid in (self.scores, self.verdicts) if grid]
        return "\n\n".join(FORMATS[form](grid, **options) for grid in grids)


def setups() -> dict[str, str]:
    """Method -> group of the table, in the order of its rows: in each group peers first, DiSparse last.

    A method that trains rewound weights to the full length stands with the static ones, as in the paper.
    """
    rows = [("static" if row.start == "rewound" else row.setup, name) for name, row in METHODS.items()]
    return {name: group for group, name in sorted(reversed(rows), key=lambda row: GROUPS.index(row[0]))}


def report(results: Sequence[Result], options: Options, groups: Mapping[str, str] | None = None) -> Report:
    """groups: method -> group, in the order of the rows, None = `setups()`.

    ValueError for what must not stand side by side.
    """
    results, groups = list(results), setups() if groups is None else groups
    for field in options.mix:
        if field not in APART:
            raise ValueError(not_one_of("--mix", field, APART))
    refuse_mixtures(results, options.mix)
    refuse_other_images(results)
    protocol = _metric_protocol(results, options.metric_protocol)
    entries = gather(results, protocol, groups)
    apart = [field for field in mixed(results) if field in ("dataset", "split")]
    notes = [*_notes(results, protocol, entries), *([] if options.published else _origins(entries))]
    shown = entries
    if options.published:
        published.check(protocol, results, "ratio" in options.mix)
        columns = [column for column in columns_of(entries) if column != DELTA]
        theirs = published.published_entries(results[0].dataset, columns, groups)
        shown = [_in_words(entry) for entry in in_order(entries + theirs, groups)]
        notes.append(published.NOTE)
    scores = score_grid(shown, _title(results, protocol), notes)
    dense = {result.label for result in dense_of(results).values()}
    return Report(shown, scores, _verdicts(entries, options, apart, dense))


def tables_by_ratio(files: Sequence[Path], ratios: Sequence[float]) -> str:
    """One table for each sparsity, as compare_runs.py shows them. files: the results."""
    results = read_results(files)
    texts = []
    for ratio in ratios:
        chosen = [result for result in results if result.ratio in (None, ratio)]
        if chosen:
            texts.append(report(chosen, Options()).text("terminal", colour=sys.stdout.isatty()))
    return "\n\n".join(texts)


def _in_words(entry: Entry) -> Entry:
    """The entry with its remarks in its label: beside other people's figures no row stands without them."""
    return replace(entry, label=f"{entry.label} ({', '.join(entry.remarks)})") if entry.remarks else entry


def _origins(entries: Sequence[Entry]) -> list[str]:
    """A line for each set of remarks: which rows it is about, and the remarks."""
    labels: dict[tuple[str, ...], list[str]] = {}
    for entry in entries:
        labels.setdefault(entry.remarks, []).append(entry.label)
    return [
        f"{'all rows' if len(labels) == 1 else ', '.join(rows)}: {', '.join(remarks)}"
        for remarks, rows in labels.items()
        if remarks and remarks != (UNTOLD,)
    ]


def _verdicts(
    entries: list[Entry], options: Options, apart: Sequence[str], dense: Collection[str]
) -> Grid | None:
    """apart: fields in which the results are of other images. dense: labels of dense networks that deltas are
    against."""
    against = options.against
    if against is None:
        labels = [entry.label for entry in entries]
        against = next((label for label in (DENSE, *labels) if label in labels and label in dense), labels[0])
    if against == NOBODY or len(entries) < 2:
        return None
    if apart:
        if options.against is not None:
            raise ValueError(
                f"--against compares scores of the same images, and these are of several {apart[0]}s: "
                f"--{apart[0]} chooses"
            )
        return None
    grid = verdict_grid(entries, against, measures(entries, options.measure))
    seeds = [int(cells[-2].text) for _, cells in grid.rows]
    most, called = max(seeds, default=0), sum(number > 1 for number in seeds)
    width = "; one seed gives none"
    if most > 1:
        width = f"; with {most} seeds it reaches {quantile(LEVEL, most - 1):.2f} standard errors to each side"
    notes = [f"paired by seed, Student's {LEVEL:.0%} interval of the mean difference{width}"]
    if called:
        notes.append(
            f"were all methods alike, about {by_chance(called):.1f} of {called} verdicts would still call a "
            "difference"
        )
    return replace(grid, notes=tuple(notes))


def _metric_protocol(results: list[Result], asked: str | None) -> str:
    if asked is not None:
        if asked not in PROTOCOLS:
            raise ValueError(not_one_of("--metric-protocol", asked, PROTOCOLS))
        return asked
    trained = sorted({result.protocol for result in results})
    if len(trained) > 1:
        raise ValueError(
            f"the networks were trained in protocols {' and '.join(trained)}: "
            f"--metric-protocol {trained[0]} says how all of them are scored"
        )
    return trained[0]


def _title(results: list[Result], protocol: str) -> str:
    def values(field: str) -> str:
        return ", ".join(sorted({f"{getattr(result, field)}" for result in results}))

    ratios = sorted({result.ratio for result in results if result.ratio is not None})
    sparsity = f"{', '.join(f'{ratio:g}' for ratio in ratios)} % sparsity, " if ratios else ""
    return (
        f"{values('dataset')}: {sparsity}split {values('split')}, trained in protocol {values('protocol')}, "
        f"scored in protocol {protocol}"
    )


def _notes(results: list[Result], protocol: str, entries: list[Entry]) -> list[str]:
    notes = ["best of each setup marked; mean ± sample standard deviation over the seeds"]
    if DELTA in columns_of(entries):
        notes.append(FORMULA)
    elif any(DELTA in entry.values for entry in entries):
        notes.append("no delta: a score of the dense network is 0 or missing")
    else:
        named = " or ".join(f"{dataset}_{BASELINE}" for dataset in sorted({r.dataset for r in results}))
        notes.append(
            "no delta: it needs the dense network (method baseline) of the same seed, where there are "
            f"several by the name {named}"
        )
    if any(column.metric.startswith(ALONE) for column in columns_of(entries)):
        notes.append(FORMULA_ALONE)
    if len({entry.seeds for entry in entries}) > 1:
        notes.append("not every row has the same seeds; verdicts use those that both have")
    notes += dict.fromkeys(note for result in results for note in result.notes)
    differing = differing_settings(results)
    if differing:
        notes.append(f"these results differ in settings beside pruning: {'; '.join(differing)}")
    batches = {result.settings.get("data", {}).get("eval_batch_size") for result in results} - {None}
    if protocol == "paper" and len(batches) > 1:
        sizes = ", ".join(sorted(map(str, batches)))
        notes.append(f"averages are over batches of evaluation, which differ: data.eval_batch_size ({sizes})")
    pruned = differing_pruning(results)
    if pruned:
        notes.append(f"seeds of one row were pruned with different settings: {'; '.join(pruned)}")
    return notes + machine_notes(results)


def machine_notes(results: Sequence[Result]) -> list[str]:
    """What is to be known where results that are paired by seed were not made alike."""
    differing = differing_machines(results)
    return [f"results of one seed were made by different means: {'; '.join(differing)}"] if differing else []
