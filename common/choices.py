"""What is said about a name that is not among the choices (its home is the library, which says it too), and
names made safe to print.
"""

from __future__ import annotations

from prune_utils.text import nearest, not_one_of

__all__ = ["nearest", "not_one_of", "printable"]


def printable(text: str) -> str:
    """The text with all that a terminal would act on (escape codes, newlines) written out, such as \\x1b."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
