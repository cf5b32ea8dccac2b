"""The effective settings of a command, and where each of them comes from: what --print-config shows."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.text import table

from .arguments import FLAGS, SWITCHES
from .load import FOLDER, Tree, as_tree, parse_assignments, read_settings
from .schema import Config

DEFAULT = "default"


def settings_table(config: Config, asked: argparse.Namespace, base: tuple[str, Tree] | None = None) -> str:
    """A line for each setting: its name, its value, and the last of the sources that says it.

    config: the settings that came out. base: the name and settings of what lies between the data set's YAML
    and the command line, such as a saved network.
    """
    origins: dict[str, str] = {}
    for source, tree in _sources(config, asked, base):
        origins |= {name: source for name, _ in _flat(tree)}
    rows = [
        (name, _shown(value), origins.get(name, DEFAULT))
        for name, value in _flat(as_tree(config))
        if value != {}
    ]
    return table(rows, ("setting", "value", "from"))


def _sources(
    config: Config, asked: argparse.Namespace, base: tuple[str, Tree] | None
) -> Iterator[tuple[str, Tree]]:
    """(name, what it says), in the order in which later ones win."""
    own = FOLDER / f"{config.data.dataset}.yaml"
    yield f"{FOLDER.name}/{own.name}", read_settings(own)
    if base is not None:
        yield base
    for file in asked.config:
        yield file, read_settings(Path(file))
    for name, flag in (FLAGS | SWITCHES).items():
        value = getattr(asked, name.replace("-", "_"), None)
        for place in flag.settings if value is not None else ():
            section, field = place.split(".")
            yield f"--{name}", {section: {field: value}}
    yield "--set", parse_assignments(asked.set)


def _flat(tree: Tree) -> Iterator[tuple[str, Any]]:
    """("optim.lr", 0.001), ...; names with values below a setting (loss_weights.seg) too."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from ((f"{name}.{below}", inner) for below, inner in _flat(value))
        else:
            yield name, value


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(str, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return str(value)
