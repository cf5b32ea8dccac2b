"""The flags of every script: one word means the same everywhere, dash or underscore.

A flag that was not given stays None and changes nothing; the others go to the setting beside them in FLAGS.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, NamedTuple, get_args, get_type_hints

from common.command_line import Parser, described

from .fields import Setting
from .load import DATASETS, Tree, as_tree, load, merge, parse_assignments, paths, settings
from .schema import GROUPS, Config

EXPERIMENT = ("--dataset", "--data-root", "--method", "--ratio", "--dest")  # which one, and where it lies
METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


class Flag(NamedTuple):
    """One flag: the settings it fills, its type, its group in the help, and what else they say of it."""

    settings: tuple[str, ...]
    kind: type
    group: str
    about: Setting


def _flags() -> dict[str, Flag]:
    """Every flag that a setting names; one flag may fill several settings."""
    found: dict[str, Flag] = {}
    for section, field, about in settings():
        if about.flag:
            path = f"{section}.{field}"
            before = found.get(about.flag)
            found[about.flag] = Flag(
                (*(before.settings if before else ()), path),
                _kind(section, field),
                about.group or GROUPS[section],
                about,
            )
    return found


def _kind(section: str, field: str) -> type:
    """What a flag's text becomes before it is read as the setting: a number, a switch, else the text."""
    hints = get_type_hints(get_type_hints(Config)[section])
    kinds = {kind for kind in get_args(hints[field]) or (hints[field],)} & {int, float, bool}
    return kinds.pop() if len(kinds) == 1 else str


_ALL = _flags()
FLAGS = {name: flag for name, flag in _ALL.items() if flag.kind is not bool}
SWITCHES = {name: flag for name, flag in _ALL.items() if flag.kind is bool}


def parser(description: str, examples: str, groups: tuple[str, ...], common: Sequence[str] = ()) -> Parser:
    """A script's parser with --dataset, --dest, --config, --set and the flags of `groups`.

    common: the flags that `--help` shows, such as "--dest".
    """
    result = Parser(
        description=description, epilog=f"examples:\n{examples}", common=common, more=settings_text
    )
    add = result.add_argument
    described(add("--dataset", default="nyuv2", metavar="NAME", help="data set"), DATASETS)
    add("--dest", default="outputs", metavar="DIR", help="folder for files, made if missing")
    described(add("--name", help="of this experiment's files"), unset="DATASET_METHOD_RATIO")
    add("--config", action="append", default=[], metavar="FILE", help="YAML file of settings, repeatable")
    setting = add("--set", action="append", default=[], metavar="A.B=C", help="one setting, repeatable")
    vars(setting)["completer"] = lambda **_: [f"{path}=" for path in paths()]
    add("--plugin", action="append", default=[], metavar="FILE", help="Python file that registers your own")
    add("--print-config", action="store_true", help="show every setting and where it comes from, do nothing")
    for title in groups:
        group = result.add_argument_group(title)
        for name, flag in FLAGS.items():
            if flag.group == title:
                action = group.add_argument(f"--{name}", metavar=METAVARS[flag.kind], help=flag.about.help)
                described(action, flag.about.names, partial(default_text, flag.settings))
        for name, flag in SWITCHES.items():
            if flag.group == title:
                group.add_argument(f"--{name}", action="store_true", default=None, help=flag.about.help)
    return result


# ------------------------------------------------------------------ what the help says about settings
@cache
def _defaults() -> dict[str, Tree]:
    """Data set -> its settings where nothing else is said."""
    return {dataset: as_tree(load(dataset)) for dataset in DATASETS}


def default_text(places: Sequence[str]) -> str:
    """The defaults of some settings: "16", or "321; cityscapes 224; taskonomy 224" where data sets differ."""
    unset = {f"{section}.{field}": about.unset for section, field, about in settings()}
    said = {
        dataset: " / ".join(flag_value(_at(tree, place), unset[place] or "none") for place in places)
        for dataset, tree in _defaults().items()
    }
    first = said.pop("nyuv2")
    return "; ".join([first, *(f"{dataset} {text}" for dataset, text in said.items() if text != first)])


def _at(tree: Tree, place: str) -> Any:
    section, field = place.split(".")
    return tree[section][field]


def flag_value(value: Any, unset: str = "none") -> str:
    """A setting as a flag takes it; `unset` where nothing is in it."""
    if value is None or value == [] or value == {}:
        return unset
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def settings_text() -> str:
    """Every setting in a line: what it is, its range or choices, its default."""
    lines = ["settings (--set SECTION.FIELD=VALUE, or sections of a YAML file):"]
    for section, field, about in settings():
        limits = ", ".join(about.names) or (about.range.words if about.range else "")
        said = "; ".join(filter(None, [limits, f"default: {default_text([f'{section}.{field}'])}"]))
        flag = f" = --{about.flag}" if about.flag else ""
        text = f"{about.help} ({said})" if about.help else f"({said})"
        lines.append(f"  {section}.{field}{flag}\n      {text}")
    lines.append("  loss_weights.TASK\n      weight of a task's loss in training (at least 0)")
    return "\n".join(lines)


# ------------------------------------------------------------------ what the command line said
def flags_tree(arguments: argparse.Namespace) -> Tree:
    """What the command line said, as nested settings: flags first, --set over them."""
    tree: Tree = {}
    for name, flag in (FLAGS | SWITCHES).items():
        value = getattr(arguments, name.replace("-", "_"), None)
        for setting in flag.settings if value is not None else ():
            section, field = setting.split(".")
            try:
                tree.setdefault(section, {})[field] = flag.kind(value)
            except ValueError:
                needs = "a whole number" if flag.kind is int else "a number"
                raise ValueError(f"--{name} needs {needs}, not '{value}'") from None
    return merge(tree, parse_assignments(arguments.set))


def flags_text(arguments: argparse.Namespace) -> str:
    """The settings of a command line as a shell would take them again, for advice on another command.

    Left out: --ratio, which names carry, and what a contract alone is told.
    """
    words = [word for file in arguments.plugin for word in ("--plugin", file)]
    words += [word for file in arguments.config for word in ("--config", file)]
    for name, flag in (FLAGS | SWITCHES).items():
        value = getattr(arguments, name.replace("-", "_"), None)
        if value is not None and name != "ratio" and flag.group != "contract":
            words += [f"--{name}"] if name in SWITCHES else [f"--{name}", value]
    words += [word for assignment in arguments.set for word in ("--set", assignment)]
    return shlex.join(words)
