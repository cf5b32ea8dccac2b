"""YAML in which nothing is lost: a key that stands twice is an error, not the last one wins."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """Plain values of a YAML text; yaml.YAMLError, with `problem_mark` where there is a place, for others."""
    return yaml.load(text, _Loader)


def said_of(error: Exception) -> str:
    """What is wrong, to end a sentence: " at line 3", " at line 3: key 'optim' stands twice"."""
    place = getattr(error, "problem_mark", None)
    where = f" at line {place.line + 1}" if place else ""
    return f"{where}: {error.problem}" if isinstance(error, _Twice) else where


class _Twice(yaml.constructor.ConstructorError):
    """A key of a mapping stands there twice."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:  # before `<<` brings what the mapping's own keys may lie over
            if not isinstance(key, yaml.ScalarNode):
                continue
            word = key.tag, key.value
            if word in seen:
                raise _Twice(None, None, f"key '{key.value}' stands twice", key.start_mark)
            seen.add(word)
        return super().construct_mapping(node, deep)
