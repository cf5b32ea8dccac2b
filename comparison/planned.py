# PYTHON_ARGCOMPLETE_OK
"""`python3 -m comparison.planned PLAN DIR`: a study against the plan that was written before it.

PLAN is a YAML file (docs/study/plan.yaml explains every field). Printed are, in this order: what of the plan
is there and what is missing, with the command that makes it; from the pilot, how far paired differences
spread and how many seeds it takes to find the stated effects; the tables of every exploration and every tier
that is complete, and what it says to a paper's claims; and, once its tier is complete, the verdicts on the
primary family, corrected by Holm. A tier that lacks a run gets no table: nobody looks at test figures before
the list is complete.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import stdev

from common.choices import not_one_of
from common.command_line import Parser, ending
from common.files import check_folder, replacing
from common.text import files_table

from .claims import claims_grid
from .entries import DELTA, Entry, columns_of, gather
from .family import compared, family_grid, glance_grid
from .forest import draw_forest
from .grid import Cell, Grid, decimals, heading, score_grid
from .plan import Plan, Tier, command, complete, family_tests, missing, read_plan
from .render import markdown
from .report import Options, machine_notes, report, setups
from .results import DENSE, Column, Result, read_results
from .verdicts import MOST_PAIRS, found_with, pairs_needed


def progress(plan: Plan, results: Mapping[str, Sequence[Result]]) -> Grid:
    """A row for each tier: how many of its runs are there, and the command for the rest."""
    rows = []
    for tier in plan.blocks:
        left = missing(tier, results.get(tier.split, ()))
        done = f"{len(tier.runs) - len(left)} of {len(tier.runs)}"
        lacking = [method for method in tier.methods if method in {label for label, _ in left}]
        text = f"`{command(plan, tier, lacking)}`" if left else "complete"
        rows.append((tier.name, (Cell(f"{tier.ratio:g} %, {tier.split}"), Cell(done), Cell(text))))
    return Grid("the plan and what is there", ("at", "runs", "next"), tuple(rows))


def power_grid(plan: Plan, pilot: Tier, results: Sequence[Result]) -> Grid:
    """From the pilot: spread of each row's paired differences from the dense network and from its other rows,
    and how many seeds find the stated effect, uncorrected and at Holm's first (strictest) level.

    results: of the pilot, complete."""
    entries = gather(results, results[0].protocol, setups())
    tests = len(family_tests(plan))
    strict = plan.level / tests
    rows = []
    for place, entry in enumerate(entries):
        for other in entries[:place]:
            for column, effect in _effects(plan, entries).items():
                spread = _spread(entry.values[column], other.values[column])
                digits = decimals(column, list(entry.values[column].values()))
                cells = (
                    heading(column),
                    "-" if math.isnan(spread) else f"{spread:.{digits}f}",
                    f"{effect:.{digits}f}",
                    *_found(plan, len(pilot.seeds), spread, effect, (plan.level, strict)),
                )
                rows.append((f"{entry.label} - {other.label}", tuple(map(Cell, cells))))
    header = (
        "measure",
        "spread of paired differences",
        "effect",
        f"seeds at {plan.level:g}",
        f"seeds at {strict:.2g}",
        f"found with {len(pilot.seeds)} seeds",
    )
    notes = (
        f"seeds: pairs with which a two-sided paired t-test finds a true difference of that size in "
        f"{100 * plan.power:.0f} % of studies",
        f"{strict:.2g} = {plan.level:g} / {tests}: the first of {tests} tests under Holm's correction",
    )
    return Grid("power, from the pilot", header, tuple(rows), notes)


def _found(plan: Plan, seeds: int, spread: float, effect: float, levels: Sequence[float]) -> Iterator[str]:
    """Seeds needed at each level, and how often the pilot's number finds the effect at the first; - where
    there is no effect or no spread."""
    if not (effect > 0 and spread > 0):
        yield from "-" * (len(levels) + 1)
        return
    for level in levels:
        needed = pairs_needed(spread, effect, level, plan.power)
        yield f"more than {MOST_PAIRS}" if needed is None else str(needed)
    yield f"{100 * found_with(seeds, spread, effect, levels[0]):.0f} %"


def _spread(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    """Of the differences in the seeds that have both scores; nan with fewer than two."""
    differences = [a[seed] - b[seed] for seed in sorted(set(a) & set(b))]
    known = [difference for difference in differences if math.isfinite(difference)]
    return stdev(known) if len(known) > 1 else math.nan


def _effects(plan: Plan, entries: Sequence[Entry]) -> dict[Column, float]:
    """Column -> effect in its unit. ValueError for a measure that no result has."""
    known = {f"{column.task} {column.metric}": column for column in columns_of(entries)}
    dense = next(entry for entry in entries if entry.label == DENSE)
    effects = {}
    for measure, effect in plan.effects.items():
        if measure not in known:
            raise ValueError(not_one_of("effects:", measure, known))
        column, text = known[measure], effect.removesuffix("%")
        scores = list(dense.values[column].values())
        share = abs(sum(scores) / len(scores)) / 100 if text != effect else 1.0
        effects[column] = float(text) * share
    return effects


def tell(plan: Plan, results: Sequence[Result]) -> str:
    """All that the module's head promises, as Markdown. results: of the plan's data set, any split."""
    own = [result for result in results if result.dataset == plan.dataset]
    by_split = {result.split: [r for r in own if r.split == result.split] for result in own}
    parts = [progress(plan, by_split)]
    if plan.pilot is not None:
        parts += [power_grid(plan, plan.pilot, there) for _, there in complete([plan.pilot], own)]
    parts += [report(there, Options()).scores for _, there in complete(plan.explorations, own)]
    for tier, there in complete(plan.tiers, own):
        parts += tier_grids(plan, tier, there)
    return "\n\n".join(map(markdown, parts))


def tier_grids(plan: Plan, tier: Tier, results: Sequence[Result]) -> list[Grid]:
    """The tables of a complete tier. results: its own."""
    entries = gather(results, results[0].protocol, setups())
    columns = list(_effects(plan, entries))
    title = f"{_title(plan, tier)}: the plan's measures"
    grids = [score_grid(entries, title, machine_notes(results), only=[*columns, DELTA])]
    if tier.name == plan.family_tier:
        verdicts = compared(plan, entries)
        grids += [glance_grid(plan, verdicts), family_grid(plan, verdicts)]
    claims = [claim for claim in plan.claims if claim.tier == tier.name]
    if claims:
        title = f"claims of the paper, looked at here at {tier.ratio:g} % with {len(tier.seeds)} seeds"
        by_label = {entry.label: entry for entry in entries}
        grids.append(claims_grid(title, claims, by_label, columns))
    return [*grids, report(results, Options()).scores]


def tier_page(plan: Plan, tier: Tier, results: Sequence[Result]) -> str:
    """The tables of a complete tier as a page, which shows the picture beside it. results: its own."""
    tables = "\n\n".join(map(markdown, tier_grids(plan, tier, results)))
    alt = f"differences from the dense network, tier {tier.name}"
    title = f"{_title(plan, tier)}: tier {tier.name}"
    return f"# {title}\n\n![{alt}](tier_{tier.name}.png)\n\n{tables}\n"


def _title(plan: Plan, tier: Tier) -> str:
    return f"{plan.dataset}, {tier.ratio:g} %, {len(tier.seeds)} seeds"


def write_pages(plan: Plan, results: Sequence[Result], folder: Path) -> list[tuple[Path, str]]:
    """Of every tier that is complete its tables, FOLDER/tier_NAME.md, and its picture beside them."""
    files = []
    for tier, there in complete(plan.tiers, [r for r in results if r.dataset == plan.dataset]):
        entries = gather(there, there[0].protocol, setups())
        title = _title(plan, tier)
        picture = draw_forest(entries, _effects(plan, entries), title, folder / f"tier_{tier.name}.png")
        page = folder / f"tier_{tier.name}.md"
        with replacing(page) as temporary:
            temporary.write_text(tier_page(plan, tier, there), encoding="utf-8")
        files += [(page, f"the tables of tier {tier.name}"), (picture, "it against the dense network")]
    return files


def main(words: list[str] | None = None) -> int:
    """The command; exit status 0, or 2 after one sentence about what is wrong."""
    parser = Parser(prog="python3 -m comparison.planned", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("plan", metavar="PLAN", help="YAML file that was written before the study")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="result files are looked for below these")
    pages = "also write the tables of every tier that is complete, and draw it"
    parser.add_argument("--pages", metavar="FOLDER", help=pages)
    asked = parser.parse_args(words)

    def work() -> int:
        plan, results = read_plan(Path(asked.plan)), read_results(asked.folders, empty=True)
        if asked.pages is not None:
            check_folder(asked.pages, "--pages")
        print(tell(plan, results))
        if asked.pages is not None:
            folder = Path(asked.pages)
            folder.mkdir(parents=True, exist_ok=True)
            print(files_table("the tiers that are complete", write_pages(plan, results, folder)))
        return 0

    return ending(work)


if __name__ == "__main__":
    sys.exit(main())
