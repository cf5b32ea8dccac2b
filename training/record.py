"""What a run writes down while it goes: a CSV of every figure, TensorBoard, and a progress bar.

The CSV has one row per figure: step, phase (train, evaluate, mask), name, value. Rows are flushed as they
come. A resumed run drops the rows after its checkpoint, so that nothing is missing or told twice.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from tqdm import tqdm

HEADER = ("step", "phase", "name", "value")


class Record:
    """Figures of one run. Only the first of several processes writes (`writes`)."""

    def __init__(
        self, csv_path: Path, board_folder: Path | None, steps: int, start: int = 0, writes: bool = True
    ):
        self.path, self.writes = Path(csv_path), writes
        self.bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=not writes, mininterval=0.5
        )
        self.file = self.board = None
        if writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            kept = _rows_until(self.path, start)
            self.file = self.path.open("w", newline="")
            self.rows = csv.writer(self.file)
            self.rows.writerows([HEADER, *kept])
            self.file.flush()
            if board_folder is not None:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(board_folder), purge_step=start + 1 if start else None)

    def add(self, step: int, phase: str, figures: dict[str, float]) -> None:
        """Write figures down at once."""
        if not self.writes or not figures:
            return
        for name, value in figures.items():
            self.rows.writerow((step, phase, name, repr(float(value))))
            if self.board is not None and math.isfinite(value):
                self.board.add_scalar(f"{phase}/{name}", value, step)
        self.file.flush()

    def tick(self, step: int, figures: dict[str, float] | None = None) -> None:
        """Move the bar; figures are shown beside it."""
        if figures:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self.bar.update(step - self.bar.n)

    def say(self, text: str) -> None:
        """A line of text that does not break the bar."""
        if self.writes:
            self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """The complete rows of an earlier part of this run, up to `step`; none for a fresh run."""
    if step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows[1:] if len(row) == len(HEADER) and row[0].isdigit() and int(row[0]) <= step]
