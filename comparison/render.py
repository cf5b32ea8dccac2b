"""A grid as terminal text, Markdown or LaTeX; scores as CSV with every digit."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from .entries import DELTA, Entry, columns_of
from .grid import Cell, Grid, spread

BOLD, PLAIN = "\033[1m", "\033[0m"
LATEX = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def terminal(grid: Grid, colour: bool = False) -> str:
    """Aligned columns; the best has a star behind it, and bold letters where colour is on."""
    starred = any(cell.bold for _, cells in grid.rows for cell in cells)
    rows = [("setup", *grid.header)] + [
        (group, *(cell.text + ("*" if cell.bold else " " if starred else "") for cell in cells))
        for group, cells in _once(grid)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for place, row in enumerate(rows):
        fields = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        if colour and place:
            for i, cell in enumerate(grid.rows[place - 1][1], 1):
                fields[i] = f"{BOLD}{fields[i]}{PLAIN}" if cell.bold else fields[i]
        lines.append("  ".join(fields).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([grid.title, "", *lines, *_notes(grid, "")])


def markdown(grid: Grid) -> str:
    """A table as code hosts show it; the best is bold."""
    lines = [f"**{grid.title}**", "", _line(["setup", *grid.header]), _line(["---"] * (len(grid.header) + 1))]
    for group, cells in _once(grid):
        lines.append(_line([group, *(_marked(cell) for cell in cells)]))
    return "\n".join([*lines, *_notes(grid, "- ")])


def _marked(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return f"**{text}**" if cell.bold else text


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def latex(grid: Grid) -> str:
    """A tabular for booktabs, a rule between setups; the best is bold, the notes are comments."""
    lines = [f"% {grid.title}", *(f"% {note}" for note in grid.notes)]
    lines += [r"\begin{tabular}{ll" + "r" * (len(grid.header) - 1) + "}", r"\toprule"]
    lines += [_latex_row(["setup", *grid.header]), r"\midrule"]
    for place, (group, cells) in enumerate(_once(grid)):
        if place and group:
            lines.append(r"\midrule")
        body = [escape(group)]
        body += [rf"\textbf{{{escape(cell.text)}}}" if cell.bold else escape(cell.text) for cell in cells]
        lines.append(" & ".join(body) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(map(escape, texts)) + r" \\"


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(LATEX.get(letter, letter) for letter in text)


FORMATS: dict[str, Callable[[Grid], str]] = {"terminal": terminal, "markdown": markdown, "latex": latex}


def comma_separated(entries: Sequence[Entry]) -> str:
    """CSV: setup, method, source, seeds, density, then mean and standard deviation of every measure."""
    columns = columns_of(entries)
    names = [" ".join(filter(None, (c.task, c.metric))) if c != DELTA else "delta %" for c in columns]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{name} {what}" for name in names for what in ("mean", "std")]
    writer.writerow(["setup", "method", "source", "seeds", "density", *ends])
    for entry in entries:
        pairs = [spread(tuple(entry.values.get(column, {}).values())) for column in columns]
        figures = ["" if value != value else repr(value) for pair in pairs for value in pair]
        lead = [
            entry.group,
            entry.label,
            entry.source or ": ".join(filter(None, ("measured", ", ".join(entry.remarks)))),
            " ".join(map(str, entry.seeds)),
        ]
        writer.writerow([*lead, repr(entry.density), *figures])
    return text.getvalue()


def _once(grid: Grid) -> list[tuple[str, tuple[Cell, ...]]]:
    """The rows, a group named in its first row only."""
    before, rows = None, []
    for group, cells in grid.rows:
        rows.append(("" if group == before else group, cells))
        before = group
    return rows


def _notes(grid: Grid, bullet: str) -> list[str]:
    return ["", *(bullet + note for note in grid.notes)] if grid.notes else []
