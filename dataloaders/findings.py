"""Reading many samples to find out what is broken in them and what values they hold."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np

from dataloaders.base import BrokenSample, Records, Sample
from dataloaders.transforms import whole
from dataloaders.writing import run_all
from tasks.base import Target

CHUNK = 8  # records that a process takes at a time
FEW = 20_000  # records whose files quick_check looks for


@dataclass
class Values:
    """What a task's targets hold: pixels, known pixels, lowest, sum and highest of the known values."""

    pixels: int = 0
    known: int = 0
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    classes: Counter = field(default_factory=Counter)

    def add(self, target: Target) -> None:
        """Take in the target of one image."""
        value, valid = target.value.numpy(), target.valid.numpy()
        known = value[np.broadcast_to(valid, value.shape)]
        self.pixels, self.known = self.pixels + valid.size, self.known + int(valid.sum())
        if known.size:
            self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
            self.total += float(known.mean(dtype=np.float64)) * int(valid.sum())
        if value.dtype == np.int64:
            numbers, counts = np.unique(known, return_counts=True)
            self.classes.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))

    def merge(self, other: Values) -> None:
        """Take in what another process found."""
        self.pixels, self.known, self.total = (
            self.pixels + other.pixels,
            self.known + other.known,
            self.total + other.total,
        )
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.classes.update(other.classes)


@dataclass
class Findings:
    """What was found in some records: sentences about broken files, image sizes, values of each task."""

    broken: list[str] = field(default_factory=list)
    sizes: Counter = field(default_factory=Counter)
    values: dict[str, Values] = field(default_factory=dict)

    def merge(self, other: Findings) -> None:
        """Take in what another process found."""
        self.broken += other.broken
        self.sizes.update(other.sizes)
        for name, values in other.values.items():
            self.values.setdefault(name, Values()).merge(values)


def look(records: Records) -> Findings:
    """Read and decode every file of some records."""
    found = Findings()
    for place in range(len(records)):
        sample = _open_all_planes(records, place, found.broken)
        if sample is None:
            continue
        found.sizes[sample.image.shape[:2]] += 1
        try:
            _, targets = records.crop(place, sample, whole(records.extent(sample)))
        except BrokenSample as error:
            found.broken.append(str(error))
            continue
        for name, target in targets.items():
            found.values.setdefault(name, Values()).add(target)
    return found


def _open_all_planes(records: Records, place: int, broken: list[str]) -> Sample | None:
    """The sample, or None with a sentence for each of its broken files."""
    try:
        return records[place]
    except BrokenSample as error:
        sentences = [str(error)]
    for name in records.geometry:  # the first broken file hides those behind it
        try:
            replace(records, geometry={name: records.geometry[name]})[place]
        except BrokenSample as error:
            sentences.append(str(error))
    broken += dict.fromkeys(sentences)
    return None


def walk(records: Records, workers: int = 1) -> Findings:
    """Look at all records, by several processes."""
    parts = [replace(records, entries=records.entries[i : i + CHUNK]) for i in range(0, len(records), CHUNK)]
    found = Findings()
    for part in run_all(look, parts, workers, records.split):
        found.merge(part)
    return found


def quick_check(*all_records: Records, allowed: int = 0) -> None:
    """Make sure, in seconds, that training can start: all files are there, and three samples can be decoded.

    Looks for the files of every record (of 20,000 spread evenly where there are more), and reads the first,
    middle and last one. BrokenSample names the first broken file of a split in which more than `allowed`
    samples are broken.
    """
    for records in all_records:
        count, broken = len(records), dict[int, str]()
        for place in sorted({0, count // 2, count - 1}):
            found = look(replace(records, entries=records.entries[place : place + 1]))
            if found.broken:
                broken[place] = found.broken[0]
        for place in np.unique(np.linspace(0, count - 1, min(count, FEW)).astype(int)).tolist():
            missing = records.missing(place)
            if missing:
                broken[place] = missing[0]
        if len(broken) > allowed:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            raise BrokenSample(broken[min(broken)] + more)
