"""Text for people. Tables, durations and sizes live in the library, which needs them too."""

from __future__ import annotations

from collections.abc import Sequence

from prune_utils.text import duration, file_size, percent, table

__all__ = ["duration", "file_size", "files_table", "percent", "table"]


def files_table(done: str, files: Sequence[tuple[object, object]]) -> str:
    """The end of a command: what was done, and every file that was written."""
    return f"\n{done}\n" + table([(path, what) for path, what in files], ("file", "holds"))
