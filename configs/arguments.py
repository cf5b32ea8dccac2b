"""The flags of every script: one word means the same everywhere, dash or underscore.

A flag that was not given stays None and changes nothing; the others go to the setting beside them in FLAGS.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any, NamedTuple, NoReturn, get_args, get_type_hints

from .load import DATASETS, merge, parse_assignments, paths, settings
from .schema import GROUPS, Config

Tree = dict


class Flag(NamedTuple):
    """One flag: the settings it fills, its type, and its help."""

    settings: tuple[str, ...]
    kind: type
    help: str
    group: str


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
                about.help,
                about.group or GROUPS[section],
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


class Parser(argparse.ArgumentParser):
    """Reads --num_batches as --num-batches; an error is one sentence and status 2."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        import sys

        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_dashed(word) for word in args], namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, sign, value = word.partition("=")
    return flag.replace("_", "-") + sign + value


def parser(description: str, examples: str, groups: tuple[str, ...]) -> Parser:
    """A script's parser with --dataset, --dest, --config, --set and the flags of `groups`."""
    result = Parser(
        description=description,
        epilog=f"examples:\n{examples}\n\nEvery setting can be changed with --set SECTION.FIELD=VALUE:\n  "
        + "\n  ".join(_wrapped(paths())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--dataset", default="nyuv2", metavar="NAME", help=f"{', '.join(DATASETS)} (nyuv2)")
    result.add_argument(
        "--dest", default="outputs", metavar="DIR", help="where files go, made if missing (outputs)"
    )
    result.add_argument("--name", help="name of this experiment's files, default DATASET_METHOD_RATIO")
    result.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="settings laid over (repeat)"
    )
    result.add_argument("--set", action="append", default=[], metavar="A.B=C", help="one setting (repeat)")
    result.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="Python file that registers your own"
    )
    for title in groups:
        group = result.add_argument_group(title)
        for name, flag in FLAGS.items():
            if flag.group == title:
                group.add_argument(f"--{name}", type=str, metavar=flag.kind.__name__.upper(), help=flag.help)
        for name, flag in SWITCHES.items():
            if flag.group == title:
                group.add_argument(f"--{name}", action="store_true", default=None, help=flag.help)
    return result


def _wrapped(words: list[str], width: int = 100) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    return lines


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
    """The settings of a command line as a shell would take them again; --ratio left out, names carry it."""
    words = [word for file in arguments.plugin for word in ("--plugin", file)]
    words += [word for file in arguments.config for word in ("--config", file)]
    for name in FLAGS | SWITCHES:
        value = getattr(arguments, name.replace("-", "_"), None)
        if value is not None and name != "ratio":
            words += [f"--{name}"] if name in SWITCHES else [f"--{name}", value]
    words += [word for assignment in arguments.set for word in ("--set", assignment)]
    return shlex.join(words)
