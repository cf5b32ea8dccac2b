"""A cache of decoded pictures: the pixels of every PNG in a file of their own, mapped when needed.

An entry is made the first time its picture is read, by whichever process reads it, under a temporary name; so
several processes may share a cache, and a stopped run goes on where it was. `python3 -m dataloaders.cache`
makes all entries ahead. An entry holds size and time of its source and a checksum: what is stale or damaged
is made again. Planes that every reader resizes (data.size) are stored at that size. npy files are mapped
already, and stay as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import mmap
import shutil
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dataloaders import DATASETS
from dataloaders.base import Plane, Records, read_plane
from dataloaders.findings import planes_of
from dataloaders.index import read_index
from dataloaders.transforms import gather, nearest_index
from dataloaders.writing import default_workers, run_all, write_bytes

MAGIC = b"plane 1\n"
HEADER = struct.Struct("<8sqqI4sB3I")  # magic, source size, source time (ns), checksum, dtype, axes, shape
START = 64  # where the pixels begin, aligned for every type
MAPPED = ".npy"
FEW = 2000  # records that are looked for to judge how much is missing


@dataclass(frozen=True)
class Cache:
    """Reads planes by way of a folder of decoded ones; takes the place of base.read_plane.

    known: entries that this process has verified, with their sources' size and time.
    """

    folder: Path
    root: Path
    size: int | None = None
    known: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, plane: Plane, path: Path) -> np.ndarray:
        """The stored array of a plane, exactly as read_plane gives it but at self.size. Raises as it does."""
        if path.suffix == MAPPED:
            return read_plane(plane, path)
        stat = path.stat()
        source = (stat.st_size, stat.st_mtime_ns)
        entry = self.entry(path)
        stored = load(entry, source, verify=self.known.get(entry) != source)
        if stored is None:
            stored = self._resized(read_plane(plane, path))
            self._store(entry, source, stored)
        elif self.known.get(entry) != source:
            plane.check(stored)  # it may have been stored under other settings
        self.known[entry] = source
        return stored

    def entry(self, path: Path) -> Path:
        """The cache's file for a source file."""
        return self.folder / f"{path.relative_to(self.root)}.{self.size or 'full'}.plane"

    def _resized(self, stored: np.ndarray) -> np.ndarray:
        if self.size is None or stored.shape[:2] == (self.size, self.size):
            return stored
        rows, cols = (nearest_index(length, self.size) for length in stored.shape[:2])
        return np.ascontiguousarray(gather(stored, rows, cols))

    def _store(self, entry: Path, source: tuple[int, int], stored: np.ndarray) -> None:
        try:
            store(entry, source, stored)
        except OSError as error:  # a full disk must not end a long run: it goes on without the entry
            reason = error.strerror or error
            message = f"cache {self.folder} cannot be written ({reason}): pictures are decoded"
            warnings.warn(message, stacklevel=4)


def store(entry: Path, source: tuple[int, int], stored: np.ndarray) -> None:
    """Write an entry, whole or not at all."""
    pixels = np.ascontiguousarray(stored)
    shape = (*pixels.shape, *[0] * (3 - pixels.ndim))
    dtype = pixels.dtype.str.encode()
    header = HEADER.pack(MAGIC, *source, zlib.crc32(pixels), dtype, pixels.ndim, *shape)
    write_bytes(entry, header.ljust(START, b"\0") + pixels.tobytes())


def load(entry: Path, source: tuple[int, int], verify: bool) -> np.ndarray | None:
    """The mapped pixels of an entry, or None if it is missing, stale or damaged.

    source: size and time that it must have been made from; verify: compare the checksum, too.
    """
    try:
        with entry.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, ValueError):  # an empty file cannot be mapped
        return None
    if len(content) < START:
        return None
    magic, size, time, checksum, dtype, axes, *shape = HEADER.unpack_from(content)
    if magic != MAGIC or (size, time) != source:
        return None
    shape, dtype = tuple(shape[:axes]), np.dtype(dtype.rstrip(b"\0").decode())
    if len(content) != START + int(np.prod(shape)) * dtype.itemsize:
        return None
    pixels = np.frombuffer(content, dtype, offset=START)
    if verify and zlib.crc32(pixels) != checksum:
        return None
    return pixels.reshape(shape)


def cached(records: Records, folder: str) -> Records:
    """The same records, read by way of a cache in this folder.

    Says on stderr how much disk that takes; ValueError if there is not so much.
    """
    root = records.root.resolve()
    place = Path(folder) / f"{records.layout.dataset}-{hashlib.sha1(str(root).encode()).hexdigest()[:8]}"
    result = replace(records, root=root, read=Cache(place.resolve(), root, records.size))
    need, free = missing_bytes(result), free_bytes(place)
    if need:
        where = f"cache {folder}: split {records.split!r} takes {need / 1e9:.2f} GB more"
        if need > free:
            raise ValueError(f"{where} and {free / 1e9:.2f} GB are free: choose another folder or none")
        print(f"{where}, {free / 1e9:.2f} GB are free", file=sys.stderr)
    return result


def missing_bytes(records: Records) -> int:
    """About how much a cache will grow: what is not there yet, judged by a few records of many."""
    step = -(-len(records) // FEW)
    total = 0
    for plane in planes_of(records):
        if not _is_mapped(records, plane):
            entries = (records.read.entry(records.path(plane, e)) for e in records.entries[::step])
            absent = step * sum(not entry.exists() for entry in entries)
            total += absent * (START + _example_bytes(records, plane)) if absent else 0
    return total


def _is_mapped(records: Records, plane: Plane) -> bool:
    return records.entries[0].files[plane.column].endswith(MAPPED)


def _example_bytes(records: Records, plane: Plane) -> int:
    for entry in records.entries[:8]:
        try:
            stored = plane.read(records.path(plane, entry))
        except (ValueError, OSError):  # reported when the record is used
            continue
        pixels = records.size**2 if records.size else stored.shape[0] * stored.shape[1]
        return pixels * stored.itemsize * (stored.shape[2] if stored.ndim == 3 else 1)
    return 0


def free_bytes(folder: Path) -> int:
    """Free disk space where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def build(records: Records) -> list[str]:
    """Make all entries of some records; returns a sentence for each sample that cannot be read."""
    broken = []
    for place in range(len(records)):
        try:
            records[place]
        except ValueError as error:
            broken.append(str(error))
    return broken


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python3 -m dataloaders.cache", description="Make all entries of a cache ahead of training."
    )
    p.add_argument("dataset", choices=DATASETS)
    p.add_argument("root", help="folder of the data set")
    p.add_argument("folder", help="folder of the cache, as for --set data.cache")
    p.add_argument("--tasks", help="comma-separated (default: all of the data set)")
    p.add_argument("--classes", type=int, help="segmentation classes (default: as published)")
    p.add_argument("--size", type=int, help="data.size (default: as published)")
    p.add_argument("--workers", type=int, default=default_workers(), help="processes (default: one a core)")
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0, 1 if samples cannot be read, 2 after one sentence about a mistake."""
    from dataloaders.check import open_all

    a = parser().parse_args(arguments)
    row = DATASETS[a.dataset]
    broken: list[str] = []
    try:
        index = read_index(a.root, row.index_file, row.how_to_get)
        given = SimpleNamespace(tasks=a.tasks, classes=a.classes, size=a.size, cache=a.folder)
        for split, records in open_all(row, a.root, index, given)[1].items():
            parts = [replace(records, entries=records.entries[i : i + 8]) for i in range(0, len(records), 8)]
            broken += sum(run_all(build, parts, a.workers, split), [])
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for sentence in broken:
        print(sentence)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
