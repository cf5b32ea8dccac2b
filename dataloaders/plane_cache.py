"""A cache of decoded pictures: the pixels of every picture as an npy file of their own, mapped when needed.

An entry is made the first time its picture is read, by whichever process reads it, under a temporary name; so
several processes may share a cache, and a stopped run goes on where it was. `python3 -m dataloaders.cache`
makes all entries ahead. Behind the array an entry holds a seal: size and time of its source and a checksum of
the file before it. What is stale or damaged is made again. Planes that every reader resizes (data.size) are
stored at that size. Files that are npy already are mapped as they are.
"""

from __future__ import annotations

import hashlib
import io
import math
import mmap
import os
import shutil
import struct
import sys
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.files import check_folder
from dataloaders.base import Plane, Records, read_plane
from dataloaders.files import open_npy
from dataloaders.transforms import gather, nearest_index
from dataloaders.writing import write_bytes

SEAL = struct.Struct("<qqI")  # size of the source, its time (ns), checksum of the array's file
MAPPED = ".npy"
FEW = 2000  # records that are looked for to judge how much is missing
Stamp = tuple[int, int]  # size and time (ns) of a source


@dataclass(frozen=True)
class Known:
    """A verified array in a file, which can be mapped again without a look at its header.

    stamp: of the source. changed: when the source was last changed or replaced (ns), which no copying keeps.
    begin: where its values start. by_rows: their order. sealed: whether a seal follows.
    """

    file: str
    stamp: Stamp
    changed: int
    dtype: np.dtype
    shape: tuple[int, ...]
    begin: int
    by_rows: bool
    sealed: bool

    def open(self) -> np.ndarray | None:
        """The mapped pixels, or None if the file has another seal or length now."""
        try:
            content, values = _mapped(self.file), math.prod(self.shape)
            end = self.begin + values * self.dtype.itemsize
            if self.sealed:
                *made_from, _ = SEAL.unpack_from(content, end)
                if tuple(made_from) != self.stamp or end + SEAL.size != len(content):
                    return None
            stored = np.frombuffer(content, self.dtype, values, self.begin)
            return stored.reshape(self.shape, order="C" if self.by_rows else "F")
        except (OSError, ValueError, struct.error):
            return None


@dataclass(frozen=True)
class Cache:
    """Reads planes by way of a folder of decoded ones; takes the place of base.read_plane.

    known: by plane and source, what this process has verified.
    """

    folder: Path
    root: Path
    size: int | None = None
    known: dict[tuple[int, str], Known] = field(default_factory=dict)

    def __call__(self, plane: Plane, path: Path) -> np.ndarray:
        """The stored array of a plane, exactly as read_plane gives it but at self.size. Raises as it does."""
        place = (plane.column, os.fspath(path))
        stat = os.stat(path)
        stamp = (stat.st_size, stat.st_mtime_ns)
        known = self.known.get(place)
        same = known is not None and (known.stamp, known.changed) == (stamp, stat.st_ctime_ns)
        stored = known.open() if known and same else None
        if stored is not None:
            return stored
        if path.suffix.lower() == MAPPED:
            stored = read_plane(plane, path)
            self._remember(place, path, stat, stored, sealed=False)
            return stored
        entry = self.entry(path)
        stored = load(entry, stamp)
        if stored is not None and _may_be(plane, stored):
            self._remember(place, entry, stat, stored, sealed=True)
            return stored
        stored = self._resized(read_plane(plane, path))
        self._store(entry, stamp, stored)
        return stored

    def _remember(
        self, place: tuple[int, str], file: Path, stat: os.stat_result, stored: np.ndarray, sealed: bool
    ) -> None:
        begin = _begin(stored)
        if begin is not None:
            self.known[place] = Known(
                os.fspath(file),
                (stat.st_size, stat.st_mtime_ns),
                stat.st_ctime_ns,
                stored.dtype,
                stored.shape,
                begin,
                stored.flags.c_contiguous,
                sealed,
            )

    def entry(self, path: Path) -> Path:
        """The cache's file for a source file."""
        return self.folder / f"{path.relative_to(self.root)}.{self.size or 'full'}.npy"

    def _resized(self, stored: np.ndarray) -> np.ndarray:
        if self.size is None or stored.shape[:2] == (self.size, self.size):
            return stored
        rows, cols = (nearest_index(length, self.size) for length in stored.shape[:2])
        return gather(stored, rows, cols)

    def _store(self, entry: Path, stamp: Stamp, stored: np.ndarray) -> None:
        try:
            store(entry, stamp, stored)
        except OSError as error:  # a full disk must not end a long run: it goes on without the entry
            warnings.warn(f"the cache cannot be used: {error}; pictures are decoded", stacklevel=4)


def _may_be(plane: Plane, stored: np.ndarray) -> bool:
    """Whether an entry can be what the plane's files hold; it may be forged, or of other settings."""
    gives = getattr(plane.read, "gives", None)
    try:
        if gives is None or gives(stored):
            plane.check(stored)
            return True
    except ValueError:
        pass
    return False


def store(entry: Path, stamp: Stamp, stored: np.ndarray) -> None:
    """Write an entry, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(stored), allow_pickle=False)
    write_bytes(entry, buffer.getvalue() + SEAL.pack(*stamp, zlib.crc32(buffer.getbuffer())))


def load(entry: Path, stamp: Stamp) -> np.ndarray | None:
    """The mapped pixels of an entry, or None if it is missing, stale, damaged or cannot be read.

    stamp: size and time of the file that it must have been made from.
    """
    try:
        content = memoryview(_mapped(entry))
        *made_from, checksum = SEAL.unpack(content[-SEAL.size :])
        if tuple(made_from) != stamp or zlib.crc32(content[: -SEAL.size]) != checksum:
            return None
        return open_npy(entry, behind=SEAL.size)
    except (OSError, ValueError, struct.error):  # an empty file cannot be mapped, a short one has no seal
        return None


def _mapped(entry: Path | str) -> mmap.mmap:
    with open(entry, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _begin(stored: np.ndarray) -> int | None:
    """Where in its file the values of a mapped array start, all of it in one order; None for others."""
    if not (stored.flags.c_contiguous or stored.flags.f_contiguous):
        return None
    array: object = stored
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return None if array is None or array.nbytes != stored.nbytes else int(array.offset)


def cached(records: Records, folder: str) -> Records:
    """The same records, read by way of a cache in this folder.

    Says on stderr how much disk that takes; ValueError if there is not so much.
    """
    with suppress(PermissionError):  # one that is whole may well be read-only
        check_folder(folder, "the cache")
    root = records.root.resolve()
    place = Path(folder).resolve() / f"{root.name}-{hashlib.sha1(str(root).encode()).hexdigest()[:8]}"
    cache = Cache(place, root, records.size)
    result = replace(records, root=root, read=cache)
    need, free = missing_bytes(result, cache), free_bytes(place)
    if need:
        where = f"cache {folder}: split {records.split!r} takes {need / 1e9:.2f} GB more"
        if need > free:
            raise ValueError(f"{where} and {free / 1e9:.2f} GB are free: choose another folder or none")
        print(f"{where}, {free / 1e9:.2f} GB are free", file=sys.stderr)
    return result


def missing_bytes(records: Records, cache: Cache) -> int:
    """About how much a cache will grow: what is not there yet, judged by a few records of many."""
    step = -(-len(records) // FEW)
    absent: dict[Plane, list[Path]] = {}
    for entry in records.entries[::step]:
        for plane in (records.layout.image, *records.planes(entry).values()):
            path = records.path(plane, entry)
            if path.suffix.lower() != MAPPED and not cache.entry(path).exists():
                absent.setdefault(plane, []).append(path)
    return sum(step * len(paths) * _bytes(plane, paths, records.size) for plane, paths in absent.items())


def _bytes(plane: Plane, paths: list[Path], size: int | None) -> int:
    """Size of an entry, by the first readable picture of several."""
    for path in paths[:8]:
        try:
            stored = plane.read(path)
        except (ValueError, OSError):  # reported when the record is used
            continue
        pixels = size**2 if size else stored.shape[0] * stored.shape[1]
        return 128 + SEAL.size + pixels * stored.itemsize * (stored.shape[2] if stored.ndim == 3 else 1)
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
