"""What a run writes down while it goes: a CSV of every figure, TensorBoard, and a progress bar.

The CSV has one row per figure: step, phase (train, evaluate, mask), name, value. Rows are flushed as they
come and on disk before a checkpoint is. A resumed run drops the rows after its checkpoint, so that nothing is
missing or told twice. No file appears before the first figure.
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from common.files import replacing

HEADER = ("step", "phase", "name", "value")


class MetricLogger:
    """Figures of one run. Only the first of several processes writes (`writes`)."""

    def __init__(
        self, csv_path: Path, board_folder: Path | None, steps: int, start: int = 0, writes: bool = True
    ) -> None:
        self.path, self.board_folder = Path(csv_path), board_folder
        self.start, self.writes = start, writes
        self.bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=not writes, mininterval=0.5
        )
        self.file: TextIO | None = None
        self.board: Any = None  # a SummaryWriter

    def add(self, step: int, phase: str, figures: dict[str, float]) -> None:
        """Write figures down at once. OSError names the file where the disk is full."""
        if not self.writes or not figures:
            return
        if self.file is None:
            self.file = self._open()
        rows = [(step, phase, name, repr(float(value))) for name, value in figures.items()]
        try:
            csv.writer(self.file).writerows(rows)
            self.file.flush()
            if self.board is not None:
                for name, value in figures.items():
                    if math.isfinite(value):
                        self.board.add_scalar(f"{phase}/{name}", value, step)
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror or error}") from error

    def sync(self) -> None:
        """Everything so far is on disk afterwards, also if the power fails."""
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
        if self.board is not None:
            self.board.flush()

    def tick(self, step: int, figures: dict[str, float] | None = None) -> None:
        """Move the bar; figures are shown beside it."""
        if figures:
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()}, refresh=False)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        self.bar.close()
        if self.file is not None:
            self.file.close()
        if self.board is not None:
            self.board.close()

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [HEADER, *_rows_until(self.path, self.start)]
        # never a moment without the earlier rows: a new file takes the old one's place
        with replacing(self.path) as temporary:
            file = temporary.open("w", newline="")
            csv.writer(file).writerows(rows)
            file.flush()
        if self.board_folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            if self.start == 0:  # another run's curves
                for events in self.board_folder.glob("events.out.tfevents.*"):
                    events.unlink()
            self.board = SummaryWriter(str(self.board_folder), purge_step=self.start + 1)
        return file


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """The complete rows of an earlier part of this run, up to `step`; none for a fresh run."""
    if step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows[1:] if len(row) == len(HEADER) and row[0].isdigit() and int(row[0]) <= step]
