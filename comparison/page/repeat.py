"""The commands that repeat results: a study for all that share their settings, the scripts for networks with
a name of their own.

What a method was called with is read off the settings of its result: names hold the letters of file names
alone. Leaves out where the data lie and how the machine works.
"""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from common.names import BASELINE, ratio_text
from common.numbers import seeds_text
from configs.arguments import FLAGS, SWITCHES, flag_value, flags_tree
from configs.load import Tree, as_tree, load, parse_assignments, result_settings
from prune_utils.methods import METHODS

from ..results import DENSE, Result

Plain = dict[str, Any]  # "section.field", or "section.field.TASK" -> value


def commands(results: Sequence[Result]) -> list[str]:
    """One command for all that share their settings; up to three for each network with a name of its own."""
    studies: dict[tuple[str, ...], list[tuple[Result, str]]] = {}
    alone: list[Result] = []
    for result in results:
        found = _variant(result)
        if found is None:
            alone.append(result)
        else:
            variant, covered = found
            studies.setdefault(tuple(_differences(result, covered)), []).append((result, variant))
    lines: list[str] = []
    dense: list[Result] = []
    for words, members in studies.items():
        first = members[0][0]
        variants = dict.fromkeys(variant for result, variant in members if result.ratio is not None)
        if not variants:  # no study trains it on its way
            dense += [result for result, _ in members]
            continue
        ratios = sorted({result.ratio for result, _ in members if result.ratio is not None})
        line = ["python3", "reproduce.py", "--dataset", first.dataset, "--methods", ",".join(variants)]
        line += ["--ratios", ",".join(map(ratio_text, ratios))]
        line += ["--seeds", seeds_text(sorted({result.seed for result, _ in members}))]
        lines.append(shlex.join([*line, "--split", first.split, *words]))
    return lines + [line for result in (*dense, *alone) for line in _scripts(result)]


def _scripts(result: Result) -> list[str]:
    """What makes, trains and evaluates one network, in the folder where a study has it."""
    row = METHODS.get(result.method)
    where = ["--dataset", result.dataset, "--method", result.method]
    where += [] if result.ratio is None else ["--ratio", ratio_text(result.ratio)]
    where += ["--name", result.name, "--dest", f"outputs/seed{result.seed}"]
    made = [*where, "--seed", str(result.seed), *_differences(result, {})]
    lines = [["launch_training.py", *made], ["eval_pruned_net.py", *where, "--split", result.split]]
    if result.method != BASELINE and not (row and row.by_itself):
        lines.insert(0, ["create_pruned_net.py", *made])
    return [shlex.join(["python3", *line]) for line in lines]


def _variant(result: Result) -> tuple[str, Plain] | None:
    """What --methods calls it, with the settings that this makes; None for a name that is no method's."""
    if result.label in (DENSE, result.method):
        return result.label, {}
    name, *words = result.label.split(":")
    if name != result.method or result.ratio is None:
        return None
    said: list[str] = [name]
    covered: Plain = {}
    for word in words:
        found = _flag(result, *word.partition("=")[::2])
        if found is None:
            return None
        said.append(found[0])
        covered |= found[1]
    return ":".join(said), covered


def _flag(result: Result, flag: str, said: str) -> tuple[str, Plain] | None:
    """`flag=value` and the settings that it makes: with the name's value where that reads as the settings
    are, else with their own; None where neither does."""
    now = _plain(result.settings)
    for value in (said, flag_value(now.get(_places(flag)[0]), "")):
        made = _read(result.dataset, flag, value)
        if made and all(place in now and now[place] == one for place, one in made.items()):
            return f"{flag}={value}", made
    return None


def _places(flag: str) -> tuple[str, ...]:
    """The settings that a flag of a variant fills."""
    named = FLAGS | SWITCHES
    return named[flag].settings if flag in named else (flag,)


@cache
def _read(dataset: str, flag: str, value: str) -> Plain:
    """The settings that a flag with this value makes; none where it cannot be read."""
    try:
        if flag in FLAGS:
            tree = flags_tree(Namespace(**{flag.replace("-", "_"): value}, set=[]))
        else:
            tree = parse_assignments([f"{place}={value}" for place in _places(flag)])
        made = _plain(as_tree(load(dataset, flags=tree)))
        return {place: made[place] for place in _places(flag)}
    except (ValueError, KeyError):
        return {}


def _differences(result: Result, covered: Mapping[str, Any]) -> list[str]:
    """`--set` words for everything that changes a result and is not the data set's own setting. covered:
    what is said elsewhere."""
    usual = _plain(as_tree(load(result.dataset)))
    words = []
    for place, value in _plain(result.settings).items():
        own = place in covered or place in ("prune.ratio", "run.seed")
        if not own and (place not in usual or usual[place] != value):
            words += ["--set", f"{place}={_yaml(value)}"]
    return words


def _plain(settings: Tree) -> Plain:
    """The settings that change a result, those of tasks one by one, and what its averages are over."""
    place = "eval_batch_size"
    data = settings.get("data", {})
    found: Plain = {f"data.{place}": data[place]} if place in data else {}
    for section, fields in result_settings(settings).items():
        for field, value in fields.items():
            if isinstance(value, dict):
                found |= {f"{section}.{field}.{task}": of for task, of in value.items()}
            else:
                found[f"{section}.{field}"] = value
    return found


def _yaml(value: Any) -> str:
    """A value as --set takes it."""
    try:
        plain = isinstance(value, str) and parse_assignments([f"x={value}"]) == {"x": value}
    except ValueError:
        plain = False
    return value if plain else json.dumps(value)
