"""How long the commands of a study took, and how long the rest will take."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from .plan import Command, Job

FILE = "times.csv"
FIELDS = ("seed", "name", "method", "training", "kind", "seconds")


class Times:
    """The measured seconds of every finished command, kept in DEST/times.csv."""

    def __init__(self, dest: Path):
        self.path = dest / FILE
        self.rows: list[dict[str, str]] = []
        if self.path.is_file():
            with open(self.path, newline="") as file:
                self.rows = list(csv.DictReader(file))

    def add(self, job: Job, command: Command, seconds: float) -> None:
        """Remember a finished command."""
        variant = job.variant
        values = (job.seed, job.name, variant.label, variant.training, command.kind, f"{seconds:.2f}")
        row = dict(zip(FIELDS, map(str, values), strict=True))
        new = not self.path.is_file()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)

    @property
    def total(self) -> float:
        """Seconds of all commands together."""
        return sum(float(row["seconds"]) for row in self.rows)

    def estimate(self, job: Job, command: Command) -> float | None:
        """Mean seconds of this command for the same variant, else of others as long; None = unknown."""
        near = defaultdict(list)
        for row in self.rows:
            if row["kind"] == command.kind:
                near[row["method"]].append(float(row["seconds"]))
                near[row["training"]].append(float(row["seconds"]))
        known = near.get(job.variant.label) or near.get(job.variant.training)
        return fmean(known) if known else None
