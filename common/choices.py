"""What is said about a name that is not among the choices, and names made safe to print."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def not_one_of(what: str, value: str, choices: Iterable[str], prefix: str = "") -> str:
    """One sentence: "task 'dpeth' is not one of depth, seg, sn; did you mean 'depth'?".

    prefix: stands before the value where the sentence shows it, such as the section of a setting.
    """
    known = list(choices)
    near = difflib.get_close_matches(value.lower(), known, 1) or difflib.get_close_matches(value, known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{what} {prefix + value!r} is not one of {', '.join(known)}{hint}"


def printable(text: str) -> str:
    """The text with all that a terminal would act on (escape codes, newlines) written out, such as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
