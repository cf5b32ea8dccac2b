"""Text for people: aligned tables, durations, sizes, shares, errors, and what is near a wrong name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence


def table(rows: Sequence[Sequence[object]], header: Sequence[str] | None = None, rule: bool = True) -> str:
    """Aligned columns, those of numbers to the right ("-" and "" where one is missing), others to the left.

    rule: whether a line of dashes follows the header.
    """
    texts = [[str(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [_of_numbers(column) for column in zip(*texts[1 if header else 0 :], strict=True)]
    right += [False] * (len(widths) - len(right))  # a header alone
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]
    if header and rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _of_numbers(column: Sequence[str]) -> bool:
    known = [text for text in column if text not in ("", "-")]
    return bool(known) and all(map(_is_number, known))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%").strip())
    except ValueError:
        return False
    return True


def duration(seconds: float | None) -> str:
    """2.44 -> "2.4 s"; 75 -> "1 min 15 s"; 3725 -> "1 h 02 min"; 93600 -> "1 d 02 h"; None -> "unknown"."""
    if seconds is None:
        return "unknown"
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d} h"
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def file_size(number: float) -> str:
    """Bytes: 1048576 -> "1.0 MiB"; from a tenth of a GiB on in GiB."""
    return f"{number / 2**30:.1f} GiB" if number >= 0.1 * 2**30 else f"{number / 2**20:.1f} MiB"


def percent(value: float | None) -> str:
    """0.1234 -> "12.3 %"; "-" for None."""
    return "-" if value is None else f"{100 * value:.1f} %"


def as_json(value: object) -> str:
    """ValueError where it is none."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"what travels along cannot be written as JSON: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Of an error's message; the name of its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(value: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; None where none is near."""
    known = list(known)
    near = difflib.get_close_matches(value.lower(), known, 1) or difflib.get_close_matches(value, known, 1)
    return near[0] if near else None


def not_one_of(what: str, value: str, choices: Iterable[str], prefix: str = "") -> str:
    """One sentence: "task 'dpeth' is not one of depth, seg, sn; did you mean 'depth'?".

    prefix: stands before the value where the sentence shows it, such as the section of a setting.
    """
    known = list(choices)
    near = nearest(value, known)
    hint = f"; did you mean '{near}'?" if near else ""
    return f"{what} {prefix + value!r} is not one of {', '.join(known)}{hint}"
