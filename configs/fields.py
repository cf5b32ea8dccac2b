"""What a setting knows about itself beside type and default: range, flag, help, old names, its effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from math import inf
from typing import Any, NamedTuple

from common.choices import nearest


class Range(NamedTuple):
    """What a value must be: a test, and the same in words. hint: what to add about a value that fails.

    choices: every value that holds, where they are few.
    """

    holds: Callable[[Any], bool]
    words: str
    hint: Callable[[Any], str] = lambda value: ""
    choices: tuple[str, ...] = ()


class Setting(NamedTuple):
    """The metadata of a field. flag: of the command line, None = only --set. group: of the flag in --help.

    changes_result: False for a setting that changes speed, paths or logs only. travels: whether a
    network's file brings it to a later command, None = where it changes the result; False where it says how
    that command works. evaluated: whether scores of a trained network depend on it, so that a result holds
    what its evaluation said and not what the training did.
    aliases: earlier names of the field, still read from files and --set.
    choices: names that help and shells offer; what a plugin registers is taken too.
    unset: what None means.
    """

    flag: str | None = None
    help: str = ""
    group: str | None = None
    range: Range | None = None
    changes_result: bool = True
    travels: bool | None = None
    evaluated: bool = False
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    unset: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The values to choose from, where they are few."""
        return self.choices or (self.range.choices if self.range else ())


def setting(default: Any, flag: str | None = None, help: str = "", **more: Any) -> Any:
    """A dataclass field with this default; `more`: fields of Setting."""
    return field(default=default, metadata={"setting": Setting(flag, help, **more)})


def at_least(low: float, words: str = "") -> Range:
    return Range(lambda value: low <= value < inf, f"at least {low}{words}")


def between(low: float, high: float, words: str) -> Range:
    """From `low` to `high`, both included."""
    return Range(lambda value: low <= value <= high, words)


def one_of(*choices: str) -> Range:
    def hint(value: Any) -> str:
        near = nearest(str(value), choices)
        return f"; did you mean '{near}'?" if near else ""

    words = " or ".join([", ".join(choices[:-1]), choices[-1]])
    return Range(lambda value: value in choices, words, hint, choices)


POSITIVE = Range(lambda value: 0 < value < inf, "above 0 and finite")
NOT_NEGATIVE = Range(lambda value: 0 <= value < inf, "at least 0 and finite")
SHARE = Range(lambda value: 0 < value <= 1, "above 0 and at most 1")
