"""Settings of pruning that a command does not read: refused, so that nobody relies on them."""

from __future__ import annotations

from collections.abc import Container, Mapping

from configs.arguments import flag_value
from configs.load import Tree

LEAVE = "leave it out"


def refuse_unused(given: Tree, unused: Mapping[str, str], flags: Container[str] = ()) -> None:
    """ValueError for the first setting of pruning that would change nothing.

    given: what the command line says, as a file may be for other commands, too. unused: setting -> what to do
    instead. flags: that the command has.
    """
    for field, value in given.get("prune", {}).items():
        if field in unused:
            flag = field.replace("_", "-")
            said = f"--{flag}" if flag in flags else f"prune.{field}"
            said += "" if value is True else f" {flag_value(value)}"
            raise ValueError(f"{said} would change nothing here: {unused[field].format(flag_value(value))}")
