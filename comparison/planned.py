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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

from common.choices import not_one_of
from common.command_line import Parser, ending
from common.files import check_folder
from common.numbers import seeds_text
from common.text import files_table

from .claims import Claim, claims_grid
from .entries import Entry, columns_of, gather
from .forest import draw_forest
from .grid import Cell, Grid, decimals, difference_and_interval, heading
from .render import markdown
from .report import Options, report, setups
from .results import DENSE, Column, Result, read_results
from .verdicts import SAME, found_with, holm, paired, pairs_needed

SHUFFLE = "own shuffle"  # in `against`: the same row with --shuffle
CONTROL = ":shuffle=true"


@dataclass(frozen=True)
class Tier:
    """Runs that are tabulated together: methods (beside the dense network) at a ratio, with equal seeds."""

    name: str
    split: str
    ratio: float
    seeds: tuple[int, ...]
    methods: tuple[str, ...]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(label, seed) of each, the dense network's before the others'."""
        return [(label, seed) for seed in self.seeds for label in (DENSE, *self.methods)]


@dataclass(frozen=True)
class Plan:
    """effects: measure -> smallest difference worth finding, in its unit or, with `%`, of the dense score.

    explorations: what is tried before anything is confirmed, by name, on other images and other seeds.
    family: rows of the tier of that name, each compared with every one of `against` in every measure.
    claims: what a paper says of two rows of a tier.
    """

    dataset: str
    command: str
    level: float
    power: float
    effects: dict[str, str]
    pilot: Tier
    explorations: tuple[Tier, ...]
    tiers: tuple[Tier, ...]
    family_tier: str
    family_rows: tuple[str, ...]
    against: tuple[str, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def family(self) -> Tier:
        """The tier of the primary family."""
        return next(tier for tier in self.tiers if tier.name == self.family_tier)


def read_plan(path: Path) -> Plan:
    """FileNotFoundError or ValueError, naming file and field, for what is no plan."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    try:
        return _plan(content)
    except KeyError as error:
        raise ValueError(f"{path} lacks the field {error}") from None
    except (TypeError, AttributeError):
        raise ValueError(f"{path} is not a plan: a field holds another kind of value") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _plan(content: Mapping[str, Any]) -> Plan:
    family = content["family"]
    tiers = tuple(_tier(str(name), tier) for name, tier in content["tiers"].items())
    explorations = tuple(_tier(str(name), of) for name, of in content.get("explorations", {}).items())
    pilot = _tier("pilot", content["pilot"])
    _check_apart((pilot, *explorations), tiers)
    plan = Plan(
        dataset=content["dataset"],
        command=" ".join(content["command"].split()),
        level=_share("level", content["level"], 0.5),
        power=_share("power", content["power"], 1),
        effects={str(measure): str(effect) for measure, effect in content["effects"].items()},
        pilot=pilot,
        explorations=explorations,
        tiers=tiers,
        family_tier=str(family["tier"]),
        family_rows=tuple(family["rows"]),
        against=tuple(family["against"]),
        claims=tuple(_claim(of, tiers) for of in content.get("claims", ())),
    )
    _check_family(plan)
    return plan


def _share(name: str, value: Any, below: float) -> float:
    share = float(value)
    if not 0 < share < below:
        raise ValueError(f"{name} {value} is not between 0 and {below:g}")
    return share


def _check_family(plan: Plan) -> None:
    """ValueError for a tier, row or rival that is not there: the correction would be for other tests."""
    if plan.family_tier not in (names := [tier.name for tier in plan.tiers]):
        raise ValueError(not_one_of("family.tier", plan.family_tier, names))
    methods = plan.family.methods
    for field, asked, known in (
        ("family.rows", plan.family_rows, methods),
        ("family.against", plan.against, (DENSE, SHUFFLE, *methods)),
    ):
        for name in asked:
            if name not in known:
                raise ValueError(not_one_of(field, name, known))
    if not family_tests(plan):
        raise ValueError("family compares nothing: it names no rows, nothing in against, or no effects")


def _claim(content: Mapping[str, Any], tiers: Sequence[Tier]) -> Claim:
    """ValueError for a tier that is not there, or a row that is not in it."""
    claim = Claim(**{field: str(content[field]) for field in ("says", "row", "against", "tier", "differs")})
    by_name = {tier.name: tier for tier in tiers}
    if claim.tier not in by_name:
        raise ValueError(not_one_of("a claim's tier", claim.tier, by_name))
    for field, name in (("row", claim.row), ("against", claim.against)):
        known = (DENSE, *by_name[claim.tier].methods)
        if name not in known:
            raise ValueError(not_one_of(f"a claim's {field}", name, known))
    if claim.row == claim.against:
        raise ValueError(f"a claim compares '{claim.row}' with itself")
    return claim


def _tier(name: str, content: Mapping[str, Any]) -> Tier:
    methods, seeds = tuple(content["methods"]), tuple(int(seed) for seed in content["seeds"])
    if not methods or not seeds:
        raise ValueError(f"tier '{name}' names no methods or no seeds")
    return Tier(name, content["split"], float(content["ratio"]), seeds, methods)


def _check_apart(before: Sequence[Tier], tiers: Sequence[Tier]) -> None:
    """ValueError where what comes before looks at images or takes seeds that a tier confirms with."""
    for one in before:
        for tier in tiers:
            seeds = sorted(set(one.seeds) & set(tier.seeds))
            if one.split == tier.split or seeds:
                what = f"split {one.split}" if one.split == tier.split else f"seed {seeds[0]}"
                raise ValueError(f"'{one.name}' and tier '{tier.name}' both take {what}")


def missing(tier: Tier, results: Sequence[Result]) -> list[tuple[str, int]]:
    """Runs of the tier that have no result."""
    there = {(result.label, result.seed) for result in results if result.ratio in (None, tier.ratio)}
    return [run for run in tier.runs if run not in there]


def members(tier: Tier, results: Sequence[Result]) -> list[Result]:
    """The tier's own results, and no others that lie in the same folder."""
    wanted = set(tier.runs)
    return [r for r in results if (r.label, r.seed) in wanted and r.ratio in (None, tier.ratio)]


def complete(tiers: Iterable[Tier], results: Sequence[Result]) -> Iterator[tuple[Tier, list[Result]]]:
    """The tiers that lack no run, each with its own results. results: of one data set, any split."""
    for tier in tiers:
        there = [result for result in results if result.split == tier.split]
        if not missing(tier, there):
            yield tier, members(tier, there)


def command(plan: Plan, tier: Tier, methods: Sequence[str] | None = None) -> str:
    """What makes a tier, or some of its methods; it goes on where it stopped."""
    which = f"--ratios {tier.ratio:g} --seeds {seeds_text(tier.seeds)} --split {tier.split}"
    return f"{plan.command} --methods {','.join(methods or tier.methods)} {which}"


def progress(plan: Plan, results: Mapping[str, Sequence[Result]]) -> Grid:
    """A row for each tier: how many of its runs are there, and the command for the rest."""
    rows = []
    for tier in (plan.pilot, *plan.explorations, *plan.tiers):
        left = missing(tier, results.get(tier.split, ()))
        done = f"{len(tier.runs) - len(left)} of {len(tier.runs)}"
        lacking = [method for method in tier.methods if method in {label for label, _ in left}]
        text = f"`{command(plan, tier, lacking)}`" if left else "complete"
        rows.append((tier.name, (Cell(f"{tier.ratio:g} %, {tier.split}"), Cell(done), Cell(text))))
    return Grid("the plan and what is there", ("at", "runs", "next"), tuple(rows))


def power_grid(plan: Plan, results: Sequence[Result], protocol: str) -> Grid:
    """From the pilot: spread of each row's paired differences from the dense network and from its other rows,
    and how many seeds find the stated effect, uncorrected and at Holm's first (strictest) level."""
    entries = gather(members(plan.pilot, results), protocol, setups())
    tests = len(family_tests(plan))
    strict = plan.level / tests
    rows = []
    for place, entry in enumerate(entries):
        for other in entries[:place]:
            for column, effect in _effects(plan, entries).items():
                spread = _spread(entry.values[column], other.values[column])
                needed = [pairs_needed(spread, effect, level, plan.power) for level in (plan.level, strict)]
                found = found_with(len(plan.pilot.seeds), spread, effect, plan.level)
                digits = decimals(column, list(entry.values[column].values()))
                cells = (
                    heading(column),
                    f"{spread:.{digits}f}",
                    f"{effect:.{digits}f}",
                    *map(str, needed),
                    f"{100 * found:.0f} %",
                )
                rows.append((f"{entry.label} - {other.label}", tuple(map(Cell, cells))))
    header = (
        "measure",
        "spread of paired differences",
        "effect",
        f"seeds at {plan.level:g}",
        f"seeds at {strict:.2g}",
        f"found with {len(plan.pilot.seeds)} seeds",
    )
    notes = (
        f"seeds: pairs with which a two-sided paired t-test finds a true difference of that size in "
        f"{100 * plan.power:.0f} % of studies",
        f"{strict:.2g} = {plan.level:g} / {tests}: the first of {tests} tests under Holm's correction",
    )
    return Grid("power, from the pilot", header, tuple(rows), notes)


def _spread(a: Mapping[int, float], b: Mapping[int, float]) -> float:
    return stdev(a[seed] - b[seed] for seed in sorted(set(a) & set(b)))


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


def family_tests(plan: Plan) -> list[tuple[str, str, str]]:
    """(row, what it is compared with, measure), every primary test of the plan."""
    tests = []
    for row in plan.family_rows:
        for against in plan.against:
            other = row + CONTROL if against == SHUFFLE else against
            if other in (DENSE, *plan.family.methods):  # not every row has a shuffle
                tests += [(row, other, measure) for measure in plan.effects]
    return tests


def family_grid(plan: Plan, results: Sequence[Result], protocol: str) -> Grid:
    """The primary verdicts: paired by seed, p-values corrected by Holm over the whole family."""
    tier = plan.family
    entries = {entry.label: entry for entry in gather(members(tier, results), protocol, setups())}
    columns = {f"{c.task} {c.metric}": c for c in columns_of(list(entries.values()))}
    tests = family_tests(plan)
    verdicts = [
        paired(entries[row].values[columns[m]], entries[other].values[columns[m]], columns[m].larger)
        for row, other, m in tests
    ]
    rows = []
    for (row, other, m), verdict, p in zip(tests, verdicts, holm([v.p for v in verdicts]), strict=True):
        column = columns[m]
        digits = decimals(column, list(entries[row].values[column].values()))
        better = (verdict.difference > 0) == column.larger
        word = SAME if math.isnan(p) or p > plan.level else "better" if better else "worse"
        cells = (
            Cell(f"minus {other}"),
            Cell(heading(column)),
            Cell(str(verdict.seeds)),
            *map(Cell, difference_and_interval(verdict, digits)),
            Cell(f"{p:.3g}"),
            Cell(word, word != SAME),
        )
        rows.append((row, cells))
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
    if any(verdict.seeds < len(tier.seeds) for verdict in verdicts):
        notes.append(
            "where seeds are fewer, a score of the others was no number, and the verdict is on the rest"
        )
    title = f"primary family, {tier.ratio:g} %, {len(tier.seeds)} seeds"
    return Grid(title, header, tuple(rows), tuple(notes))


def tell(plan: Plan, results: Sequence[Result]) -> str:
    """All that the module's head promises, as Markdown. results: of the plan's data set, any split."""
    own = [result for result in results if result.dataset == plan.dataset]
    by_split = {result.split: [r for r in own if r.split == result.split] for result in own}
    parts = [progress(plan, by_split)]
    pilot = by_split.get(plan.pilot.split, [])
    if not missing(plan.pilot, pilot):
        parts.append(power_grid(plan, pilot, pilot[0].protocol))
    parts += [report(there, Options()).scores for _, there in complete(plan.explorations, own)]
    for tier, there in complete(plan.tiers, own):
        parts.append(report(there, Options()).scores)
        claims = [claim for claim in plan.claims if claim.tier == tier.name]
        if claims:
            entries = gather(there, there[0].protocol, setups())
            title = f"claims of the paper, looked at here at {tier.ratio:g} % with {len(tier.seeds)} seeds"
            by_label = {entry.label: entry for entry in entries}
            parts.append(claims_grid(title, claims, by_label, list(_effects(plan, entries))))
        if tier.name == plan.family_tier:
            parts.append(family_grid(plan, there, there[0].protocol))
    return "\n\n".join(map(markdown, parts))


def draw(plan: Plan, results: Sequence[Result], folder: Path) -> list[tuple[Path, str]]:
    """A picture of every tier that is complete, FOLDER/tier_NAME.png."""
    drawn = []
    for tier, there in complete(plan.tiers, [r for r in results if r.dataset == plan.dataset]):
        entries = gather(there, there[0].protocol, setups())
        title = f"{plan.dataset}, {tier.ratio:g} %, {len(tier.seeds)} seeds"
        path = draw_forest(entries, _effects(plan, entries), title, folder / f"tier_{tier.name}.png")
        drawn.append((path, f"tier {tier.name} against the dense network"))
    return drawn


def main(words: list[str] | None = None) -> int:
    """The command; exit status 0, or 2 after one sentence about what is wrong."""
    parser = Parser(prog="python3 -m comparison.planned", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("plan", metavar="PLAN", help="YAML file that was written before the study")
    parser.add_argument("folders", nargs="+", metavar="DIR", help="result files are looked for below these")
    parser.add_argument("--pictures", metavar="FOLDER", help="also draw every tier that is complete")
    asked = parser.parse_args(words)

    def work() -> int:
        plan, results = read_plan(Path(asked.plan)), read_results(asked.folders)
        if asked.pictures is not None:
            check_folder(asked.pictures, "--pictures")
        print(tell(plan, results))
        if asked.pictures is not None:
            folder = Path(asked.pictures)
            folder.mkdir(parents=True, exist_ok=True)
            print(files_table("pictures of the tiers that are complete", draw(plan, results, folder)))
        return 0

    return ending(work)


if __name__ == "__main__":
    sys.exit(main())
