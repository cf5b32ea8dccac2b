"""Records: the samples of one split, opened one by one, with the files of the chosen tasks only.

A data set describes each of its files by a Plane: how it is read, when it is broken, and how a crop of it
becomes numbers. Everything else (index, shapes, error sentences, cropping) is here, once for all data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from common.choices import printable
from configs.schema import Data
from dataloaders.index import Entry
from dataloaders.transforms import PADDING, Crop, crop_image, crop_target, unknown_target
from tasks.base import Geometry, Target, Task

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
    decode(crop of the stored array) -> (value [channels, h, w] of `dtype`, valid bool [h, w]), two new
        arrays, value finite everywhere; for the image: [h, w, 3], blue first, 0..255, uint8 or float.
    check(stored array) raises ValueError if its values are impossible.
    float_resize: the image becomes floating point before it is scaled, else its bytes stay bytes.
    ValueErrors complete a sentence that begins with the file's name: "holds label 200 ...".
    """

    column: int
    read: Callable[[Path], np.ndarray]
    decode: Callable[[np.ndarray], Any]
    check: Callable[[np.ndarray], None] = no_check
    channels: int = 1
    dtype: type = np.float32
    float_resize: bool = False


Reader = Callable[[Plane, Path], np.ndarray]


class Sample(NamedTuple):
    """The files of one record as stored, before any decoding; None for a task without a target.

    name: the image's path in the index.
    """

    name: str
    image: np.ndarray
    planes: dict[str, np.ndarray | None]


class Layout(NamedTuple):
    """What is in a record. files: number of paths in it; image and planes (by task) say which is what.

    locate(root, path of the index) -> where the file is, for data sets with more than one order of folders.
    """

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
    padding: colour of what a crop has beside the picture, blue, green, red, 0..255.
    read: how a file becomes a checked array. A cache of decoded files replaces it.
    """

    split: str
    root: Path
    entries: tuple[Entry, ...]
    layout: Layout
    geometry: dict[str, Geometry]
    size: int | None
    padding: tuple[float, float, float]
    read: Reader = read_plane

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: int) -> Sample:
        """The sample as stored. BrokenSample if a file is missing, unreadable, ill-shaped or impossible."""
        entry = self.entries[place]
        image = self._open(self.layout.image, entry)
        planes: dict[str, np.ndarray | None] = dict.fromkeys(self.geometry)
        for name, plane in self.planes(entry).items():
            stored = planes[name] = self._open(plane, entry)
            if self.size is None and stored.shape[:2] != image.shape[:2]:
                found, wanted = (" x ".join(map(str, a.shape[:2])) for a in (stored, image))
                name = printable(str(entry.files[self.layout.image.column]))
                raise self._broken(plane, entry, f"is {found} where the image is {wanted} ({name})")
        return Sample(str(entry.files[self.layout.image.column]), image, planes)

    def planes(self, entry: Entry) -> dict[str, Plane]:
        """Task -> plane, of the tasks that this record has a target for."""
        planes = {name: self.layout.planes[name] for name in self.geometry}
        return {name: plane for name, plane in planes.items() if entry.files[plane.column] is not None}

    def extent(self, sample: Sample) -> tuple[int, int]:
        """(rows, columns) of the sample as a network sees it without augmentation."""
        rows, columns = sample.image.shape[:2]
        return (rows, columns) if self.size is None else (self.size, self.size)

    def crop(self, place: int, sample: Sample, crop: Crop) -> Item:
        """The decoded crop of a sample read from `place`: mean-free image and a Target for each task.

        A task without a file in this record gets a Target without any valid pixel.
        """
        plane = self.layout.image
        try:
            image = crop_image(sample.image, crop, plane.decode, self.padding, plane.float_resize)
            targets = {}
            for name, stored in sample.planes.items():
                plane = self.layout.planes[name]
                if stored is None:
                    targets[name] = unknown_target(plane.channels, plane.dtype, crop)
                else:
                    targets[name] = crop_target(stored, crop, plane.decode, self.geometry[name])
        except ValueError as error:
            raise self._broken(plane, self.entries[place], str(error)) from error
        return image, targets

    def path(self, plane: Plane, entry: Entry) -> Path:
        """Where the file of a plane lies; only for planes that the record has."""
        return self.layout.locate(self.root, str(entry.files[plane.column]))

    def missing(self, place: int) -> list[str]:
        """A sentence for each file of a record that is not there."""
        entry = self.entries[place]
        planes = (self.layout.image, *self.planes(entry).values())
        absent = (plane for plane in planes if not self.path(plane, entry).exists())
        return [str(self._broken(plane, entry, "is missing")) for plane in absent]

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
        file = printable(str(entry.files[plane.column]))
        return BrokenSample(f"{file} (record {entry.number} of split {entry.split!r}) {reason}")


def open_records(
    layout: Layout, data: Data, split: str, entries: tuple[Entry, ...], tasks: dict[str, Task], protocol: str
) -> Records:
    """The records of one split, with the files of `tasks` only. ValueError for a task without any target."""
    for name in tasks:
        column = layout.planes[name].column
        if all(entry.files[column] is None for entry in entries):
            raise ValueError(
                f"no record of split {split!r} has a target for task {name!r}: choose others by --tasks, or "
                "other classes by --classes where labels are stored by number of classes"
            )
    geometry = {name: task.geometry for name, task in tasks.items()}
    return Records(split, Path(data.root), entries, layout, geometry, data.size, PADDING[protocol])
