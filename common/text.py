"""Text for people: aligned tables."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[object]], header: Sequence[str] | None = None) -> str:
    """Aligned columns; numbers to the right, text to the left."""
    texts = [[str(cell) for cell in row] for row in ([header] if header else []) + list(rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(widths))]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]
    if header:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _is_number(cell: object) -> bool:
    digits = str(cell).replace(",", "").replace(".", "").strip("%-+ ")
    return isinstance(cell, int | float) or digits.isdigit()


def files_table(done: str, files: Sequence[tuple[str, object]]) -> str:
    """The end of a command: what was done, and every file that was written."""
    return f"\n{done}\n" + table([(path, what) for path, what in files], ("file", "holds"))
