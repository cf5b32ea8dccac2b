"""The plan of a study, written before it: tiers, the primary family, a paper's claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.choices import not_one_of
from common.names import file_word, variant_words
from common.numbers import seeds_text
from common.yaml_text import load_yaml, said_of
from prune_utils.methods import METHODS

from .claims import Claim
from .results import DENSE, Result

SHUFFLE = "own shuffle"  # in `against`: the same row with --shuffle
CONTROL = ":shuffle=true"


@dataclass(frozen=True)
class Tier:
    """Runs that are tabulated together: methods (beside the dense network) at a ratio, with equal seeds.

    methods: as results call them -> as a command line says them."""

    name: str
    split: str
    ratio: float
    seeds: tuple[int, ...]
    methods: Mapping[str, str]

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(label, seed) of each, the dense network's before the others'."""
        return [(label, seed) for seed in self.seeds for label in (DENSE, *self.methods)]


@dataclass(frozen=True)
class Plan:
    """effects: measure -> smallest difference worth finding, in its unit or, with `%`, of the dense score.

    pilot: what says how far paired differences spread; None where an earlier study has said it.
    explorations: what is tried before anything is confirmed, by name, on other images and other seeds.
    family: rows of the tier of that name, each compared with every one of `against` in every measure.
    claims: what a paper says of two rows of a tier.
    """

    dataset: str
    command: str
    level: float
    power: float
    effects: dict[str, str]
    pilot: Tier | None
    explorations: tuple[Tier, ...]
    tiers: tuple[Tier, ...]
    family_tier: str
    family_rows: tuple[str, ...]
    against: tuple[str, ...]
    claims: tuple[Claim, ...] = ()

    @property
    def blocks(self) -> tuple[Tier, ...]:
        """All of it, in the order in which it is run."""
        return (*([self.pilot] if self.pilot else []), *self.explorations, *self.tiers)

    @property
    def family(self) -> Tier:
        """The tier of the primary family."""
        return next(tier for tier in self.tiers if tier.name == self.family_tier)


def read_plan(path: Path) -> Plan:
    """FileNotFoundError or ValueError, naming file and field, for what is no plan."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"plan {path} is not valid YAML{said_of(error)}") from None
    try:
        return _plan(content)
    except KeyError as error:
        raise ValueError(f"{path} lacks the field {error}") from None
    except (TypeError, AttributeError):
        raise ValueError(f"{path} is not a plan: a field holds another kind of value") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


FIELDS = (
    *("dataset", "command", "level", "power", "effects", "pilot", "explorations"),
    *("tiers", "family", "claims"),
)


def _plan(content: Mapping[str, Any]) -> Plan:
    for field in content:
        if field not in FIELDS:
            raise ValueError(not_one_of("field", str(field), FIELDS))
    family = content["family"]
    tiers = tuple(_tier(str(name), tier) for name, tier in content["tiers"].items())
    explorations = tuple(_tier(str(name), of) for name, of in content.get("explorations", {}).items())
    pilot = _tier("pilot", content["pilot"]) if "pilot" in content else None
    if pilot and len(pilot.seeds) < 2:
        raise ValueError("a pilot needs two seeds at least: its differences are to have a spread")
    _check_apart((*([pilot] if pilot else []), *explorations), tiers)
    plan = Plan(
        dataset=content["dataset"],
        command=" ".join(content["command"].split()),
        level=_share("level", content["level"], 0.5),
        power=_share("power", content["power"], 1),
        effects={str(measure): _effect(measure, effect) for measure, effect in content["effects"].items()},
        pilot=pilot,
        explorations=explorations,
        tiers=tiers,
        family_tier=str(family["tier"]),
        family_rows=tuple(map(_label, family["rows"])),
        against=tuple(map(_label, family["against"])),
        claims=tuple(_claim(of, tiers) for of in content.get("claims", ())),
    )
    _check_family(plan)
    return plan


def _share(name: str, value: Any, below: float) -> float:
    share = float(value)
    if not 0 < share < below:
        raise ValueError(f"{name} {value} is not between 0 and {below:g}")
    return share


def _effect(measure: Any, effect: Any) -> str:
    """As text; ValueError for what is no number above 0, with or without %."""
    try:
        number = float(str(effect).removesuffix("%"))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(f"effects: '{measure}' has {effect}, not a number above 0, such as 1 or 5%")
    return str(effect)


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
            if asked.count(name) > 1:
                raise ValueError(f"{field} names '{name}' twice")
    if not family_tests(plan):
        raise ValueError("family compares nothing: it names no rows, nothing in against, or no effects")


def _claim(content: Mapping[str, Any], tiers: Sequence[Tier]) -> Claim:
    """ValueError for a tier that is not there, or a row that is not in it."""
    said = {field: str(content[field]) for field in ("says", "tier", "differs")}
    claim = Claim(**said, row=_label(str(content["row"])), against=_label(str(content["against"])))
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
    methods, seeds, ratio = content["methods"], content["seeds"], float(content["ratio"])
    if not methods or not seeds:
        raise ValueError(f"tier '{name}' names no methods or no seeds")
    for what, of, kind in (("methods", methods, str), ("seeds", seeds, int)):
        if not isinstance(of, list) or not all(type(one) is kind for one in of):
            raise ValueError(
                f"{what} of tier '{name}' are no list of {'names' if kind is str else 'whole numbers'}"
            )
        for one in of:
            if of.count(one) > 1:
                raise ValueError(f"{what} of tier '{name}' hold {one} twice")
    for method in methods:
        _check_method(method)
    if not 0 < ratio < 100:
        raise ValueError(f"ratio {ratio:g} of tier '{name}' is no percentage between 0 and 100")
    return Tier(name, content["split"], ratio, tuple(seeds), {_label(method): method for method in methods})


def _label(method: str) -> str:
    """A method as results call it: from `granularity=2:4` a file's name leaves `granularity=2_4`."""
    name, *flags = variant_words(method)
    return ":".join([name, *map(file_word, flags)])


def _check_method(text: str) -> None:
    """ValueError for a method that there is not, or a flag that results name otherwise."""
    name, *flags = variant_words(text)
    if name not in METHODS:
        raise ValueError(not_one_of("method", name, METHODS))
    for flag in (flag.partition("=")[0] for flag in flags):
        if "_" in flag and "." not in flag:
            raise ValueError(f"'{text}': results call it '{flag.replace('_', '-')}', not '{flag}'")


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
    said = ",".join(tier.methods[method] for method in methods or tier.methods)
    return f"{plan.command} --methods {said} {which}"


def family_tests(plan: Plan) -> list[tuple[str, str, str]]:
    """(row, what it is compared with, measure), every primary test of the plan, each pair once."""
    pairs: list[tuple[str, str]] = []
    for row in plan.family_rows:
        for against in plan.against:
            other = row + CONTROL if against == SHUFFLE else against
            there = other in (DENSE, *plan.family.methods)  # not every row has a shuffle
            if there and row != other and not {(row, other), (other, row)} & set(pairs):
                pairs.append((row, other))
    return [(*pair, measure) for pair in pairs for measure in plan.effects]
