"""Records: the samples of one split, opened one by one, with the files of the chosen tasks only.

A data set describes each of its files by a Plane: how it is read, when it is broken, and how a crop of it
becomes numbers. Everything else (index, shapes, error sentences, cutting) is here, once for all data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dataloaders import DATASETS
from dataloaders.index import Entry, entries, read_index
from dataloaders.transforms import Crop, crop_image, crop_target
from tasks.base import Geometry, Target

Item = tuple[Tensor, dict[str, Target]]  # image [3, H, W] and the targets of one sample


class BrokenSample(ValueError):
    """A sample that cannot be used; the message is one sentence with file, record and what is wrong."""


def no_check(stored: np.ndarray) -> None:
    """For planes in which every value is possible."""


@dataclass(frozen=True)
class Plane:
    """One file of a record.

    column: its place in the record.
    read(path) -> stored array [H, W] or [H, W, C]; raises OSError or ValueError.
    decode(crop of the stored array) -> (value [K, h, w] float32 or int64, valid bool [h, w]), two new arrays,
        value finite everywhere; for the image: [h, w, 3], blue first, 0..255, uint8 or float.
    check(stored array) raises ValueError if its values are impossible.
    ValueErrors complete a sentence that begins with the file's name: "holds label 200 ...".
    """

    column: int
    read: Callable[[Path], np.ndarray]
    decode: Callable[[np.ndarray], Any]
    check: Callable[[np.ndarray], None] = no_check


class Sample(NamedTuple):
    """The files of one record as stored, before any decoding. name: the image's path in the index."""

    name: str
    image: np.ndarray
    planes: dict[str, np.ndarray]


class Layout(NamedTuple):
    """What a data set's file tells open_records. files: number of paths in a record.

    locate(root, path of the index) -> where the file is, for data sets with more than one order of folders.
    """

    dataset: str
    files: int
    image: Plane
    planes: dict[str, Plane]
    locate: Callable[[Path, str], Path] = Path.joinpath


def read_plane(plane: Plane, path: Path) -> np.ndarray:
    """The plane's stored array, read from its file and checked."""
    stored = plane.read(path)
    plane.check(stored)
    return stored


@dataclass(frozen=True)
class Records:
    """The samples of one split.

    size: side to which every file is resized (nearest) before anything else, None = as stored.
    read: how a file becomes a checked array. A cache of decoded files replaces it.
    """

    split: str
    root: Path
    entries: tuple[Entry, ...]
    layout: Layout
    geometry: dict[str, Geometry]
    size: int | None = None
    read: Callable[[Plane, Path], np.ndarray] = read_plane

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: int) -> Sample:
        """The sample as stored. BrokenSample if a file is missing, unreadable, ill-shaped or impossible."""
        entry = self.entries[place]
        image = self._open(self.layout.image, entry)
        planes = {name: self._open(self.layout.planes[name], entry) for name in self.geometry}
        for name, stored in planes.items():
            if self.size is None and stored.shape[:2] != image.shape[:2]:
                found, wanted = (" x ".join(map(str, a.shape[:2])) for a in (stored, image))
                raise self._broken(self.layout.planes[name], entry, f"is {found} where the image is {wanted}")
        return Sample(entry.files[self.layout.image.column], image, planes)

    def extent(self, sample: Sample) -> tuple[int, int]:
        """(rows, columns) of the sample as a network sees it without augmentation."""
        return sample.image.shape[:2] if self.size is None else (self.size, self.size)

    def crop(self, place: int, sample: Sample, crop: Crop) -> Item:
        """The decoded crop of a sample read from `place`: mean-free image and a Target for each task."""
        plane = self.layout.image
        try:
            image = crop_image(sample.image, crop, plane.decode)
            targets = {}
            for name, stored in sample.planes.items():
                plane = self.layout.planes[name]
                targets[name] = crop_target(stored, crop, plane.decode, self.geometry[name])
        except ValueError as error:
            raise self._broken(plane, self.entries[place], str(error)) from error
        return image, targets

    def path(self, plane: Plane, entry: Entry) -> Path:
        """Where the file of a plane lies."""
        return self.layout.locate(self.root, entry.files[plane.column])

    def _open(self, plane: Plane, entry: Entry) -> np.ndarray:
        try:
            return self.read(plane, self.path(plane, entry))
        except FileNotFoundError as error:
            raise self._broken(plane, entry, "is missing") from error
        except OSError as error:
            raise self._broken(plane, entry, f"cannot be read ({error.strerror or error})") from error
        except ValueError as error:
            raise self._broken(plane, entry, str(error)) from error

    def _broken(self, plane: Plane, entry: Entry, reason: str) -> BrokenSample:
        return BrokenSample(
            f"{entry.files[plane.column]} (record {entry.number} of split {entry.split!r}) {reason}"
        )


def open_records(layout: Layout, data, split: str, tasks: dict) -> Records:
    """The records of one split of a data set, with the files of `tasks`. Raises as DataSet.open says."""
    row = DATASETS[layout.dataset]
    index = read_index(data.root, row.index_file, row.how_to_get)
    found = entries(index, split, layout.files, data.val_fraction)
    geometry = {name: task.geometry for name, task in tasks.items()}
    records = Records(split, Path(data.root), found, layout, geometry, data.size)
    if data.cache:
        from dataloaders.cache import cached  # a run without a cache does without its code

        return cached(records, data.cache)
    return records
