"""What a run writes down while it goes: a CSV of every figure, a board such as TensorBoard, a progress bar.

The CSV has one row per figure: step, phase (train, tasks, evaluate, mask, data), name, value. Rows are
flushed as they come and on disk before a checkpoint is. A resumed run drops the rows after its checkpoint, so
that nothing is missing or told twice. No file appears before the first figure.
"""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import TextIO

import numpy as np
from tqdm import tqdm

from common.files import replacing

from .boards import BOARDS, Board, board_folder

HEADER = ("step", "phase", "name", "value")


class MetricLogger:
    """Figures of one run. Only the first of several processes writes (`writes`).

    kind: of the board, "none" for none; its files are in `board`, beside the CSV.
    """

    def __init__(self, csv_path: Path, kind: str, steps: int, start: int = 0, writes: bool = True) -> None:
        self.path, self.kind = Path(csv_path), kind
        self.board = board_folder(kind, self.path.parent, self.path.stem)
        self.start, self.writes = start, writes
        self.bar = tqdm(
            total=steps, initial=start, unit="step", dynamic_ncols=True, disable=not writes, mininterval=0.5
        )
        self._shown: dict[str, str] = {}  # beside the bar until the next validation
        self._file: TextIO | None = None
        self._board: Board | None = None

    def add(self, step: int, phase: str, figures: dict[str, float]) -> None:
        """Write figures down at once. OSError names the file where the disk is full."""
        if not self.writes or not figures:
            return
        if self._file is None:
            self._file = self._open()
        rows = [(step, phase, name, repr(float(value))) for name, value in figures.items()]
        try:
            csv.writer(self._file).writerows(rows)
            self._file.flush()
            if self._board is not None:
                known = {f"{phase}/{name}": float(v) for name, v in figures.items() if math.isfinite(v)}
                self._board.figures(known, step)
        except OSError as error:
            raise OSError(f"cannot write {self.path}: {error.strerror or error}") from error

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture, uint8 RGB [H, W, 3], on the board; the CSV takes none."""
        if self._board is not None:
            self._board.picture(name, picture, step)

    def show(self, scores: dict[str, str]) -> None:
        """Keep these beside the bar until they are told anew, such as {"seg mIoU": "23.1"}."""
        self._shown = scores

    def sync(self) -> None:
        """Everything so far is on disk afterwards, also if the power fails."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def tick(self, step: int, figures: dict[str, float] | None = None) -> None:
        """Move the bar; figures are shown beside it, and the scores of the last validation."""
        if figures:
            words = {name: f"{value:.4g}" for name, value in figures.items()} | self._shown
            self.bar.set_postfix_str(", ".join(f"{n}={v}" for n, v in words.items()), refresh=False)
        self.bar.update(step - self.bar.n)

    def close(self) -> None:
        self.bar.close()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _open(self) -> TextIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [HEADER, *_rows_until(self.path, self.start)]
        # never a moment without the earlier rows: a new file takes the old one's place
        with replacing(self.path) as temporary:
            file = temporary.open("w", newline="")
            csv.writer(file).writerows(rows)
            file.flush()
        if self.board is not None:
            self._board = BOARDS[self.kind](self.board, self.start)
        return file


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """The complete rows of an earlier part of this run, up to `step`; none for a fresh run."""
    if step == 0 or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows[1:] if len(row) == len(HEADER) and row[0].isdigit() and int(row[0]) <= step]
