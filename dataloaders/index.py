"""The index of a data set: a JSON file in its root, split -> list of records, a record = relative paths.

Checked once, when it is read: splits, record lengths, that no path leads out of the root, and that no image
is trained on and tested on. A path may be null where an image has no target for a task. Backslashes, spaces
around a path, a byte order mark, and absolute paths into the root are understood.
A split "val" that the index lacks, or that is empty, is taken from "train" by a fixed seed, the same records
in every run; an image that stands there more than once goes as a whole.
"""

from __future__ import annotations

import unicodedata
import warnings
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from common.choices import not_one_of, printable
from common.files import read_json

HOLD_OUT_SEED = 2206  # fixed: every run of every method validates on the same records
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
Index = dict[str, list[Any]]


class Entry(NamedTuple):
    """A record, and where the index file holds it: the split, and its place (from 0) in that list.

    files: paths relative to the root; None = the image has no such target.
    """

    number: int
    files: tuple[str | None, ...]
    split: str


def read_index(root: str, index_file: str, how_to_get: str) -> Index:
    """split -> list of records. FileNotFoundError says how to get the data, ValueError what is wrong."""
    folder = existing_folder(root, how_to_get)
    path = folder / index_file
    if not path.is_file():
        missing = f"{path}, the index of the data set, does not exist"
        raise FileNotFoundError(f"{missing}{elsewhere(folder, index_file)}: {how_to_get}")
    index = read_json(path)
    if not isinstance(index, dict):
        raise ValueError(f"{path} must hold an object that maps each split to its list of records")
    for split, records in index.items():
        if not isinstance(records, list):
            raise ValueError(f"{path}: split '{printable(split)[:80]}' must hold a list of records")
    return {split: records for split, records in index.items() if records or split != "val"}


def existing_folder(root: str, how_to_get: str = "") -> Path:
    """The data set's folder; FileNotFoundError says how to get the data."""
    end = f": {how_to_get}" if how_to_get else ""
    if not root:
        raise FileNotFoundError(f"no data folder is given (--data-root){end}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist{end}")
    return Path(root)


def visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what file managers and systems leave there."""
    return sorted(p for p in folder.iterdir() if p.name[0] != "." and p.name not in ("Thumbs.db", "__MACOSX"))


def elsewhere(folder: Path, name: str) -> str:
    """Where a file or folder that is not in `folder` may be: other capitals, one level deeper, an archive."""
    content = visible(folder)
    for path in content:
        if path.name.lower() == name.lower():
            return f", but {path} does: rename it"
    for path in content:
        if path.is_dir() and (path / name).exists():
            return f", but {path / name} does: give {path}"
    packed = [path.name for path in content if path.suffix.lower() in ARCHIVES]
    return f", but {', '.join(packed[:3])} does: unpack it" if packed else ""


def entries(
    index: Index,
    split: str,
    length: int,
    val_fraction: float,
    root: Path = Path(),
    image: int = 0,
    allow_overlap: bool = False,
) -> tuple[Entry, ...]:
    """The records of one split, checked.

    length: files in a record; val_fraction: see _held_out; image: the column of the image, never null.
    allow_overlap: whether an image may be in a training split and in one that is scored on.
    """
    source = "train" if split == "val" and "val" not in index else split
    if source not in index:
        raise ValueError(not_one_of("split", split, splits(index) or ["(none: the index is empty)"]))
    prefixes = _prefixes(root)
    checked = [
        _entry(source, number, record, length, image, prefixes) for number, record in enumerate(index[source])
    ]
    if not checked:
        raise ValueError(f"split {source!r} of the index holds no record")
    _refuse_shared(index, image, root, allow_overlap)
    if "val" not in index and split in ("train", "val"):
        images = [_spelled(str(entry.files[image]), prefixes) for entry in checked]
        held = _held_out(images, val_fraction)
        if split == "val" and not held:
            raise ValueError(
                f"the index has no split 'val', and its {len(checked)} training record(s) at "
                f"data.val_fraction {val_fraction:g} leave none to validate on: before training, a larger "
                "--val-share holds some out, and --set run.select_on=test chooses weights without"
            )
        checked = [
            entry for entry, name in zip(checked, images, strict=True) if (name in held) == (split == "val")
        ]
    return tuple(checked)


def splits(index: Index) -> list[str]:
    """What can be asked for, sorted: "val" may be a part of "train"."""
    return sorted({*index, *(["val"] if "train" in index else [])})


def shared_images(index: Index, image: int, root: Path) -> list[tuple[str, str, list[str]]]:
    """Pairs of splits and the images that stand in both, those of training splits first.

    Splits named train... may share images (train1 and train2 are parts of train in published indices).
    """
    prefixes = _prefixes(root)
    splits = {
        split: {
            _spelled(record[image], prefixes)
            for record in records
            if isinstance(record, list) and len(record) > image and isinstance(record[image], str)
        }
        for split, records in index.items()
    }
    pairs = [sorted(pair, key=lambda split: not _is_training(split)) for pair in combinations(splits, 2)]
    found = [(one, other, sorted(splits[one] & splits[other])) for one, other in pairs]
    found = [each for each in found if each[2] and not _is_training(each[1])]
    return sorted(found, key=lambda each: not _is_training(each[0]))


def _is_training(split: str) -> bool:
    return split.startswith("train")


def _prefixes(root: Path) -> tuple[str, ...]:
    """What absolute paths into the root begin with."""
    return root.absolute().as_posix() + "/", root.resolve().as_posix() + "/"


def _inside(file: str, prefixes: tuple[str, ...]) -> str:
    """A path of the index as seen from the root."""
    text = file.strip().replace("\\", "/")
    return next((text[len(prefix) :] for prefix in prefixes if text.startswith(prefix)), text)


def _spelled(file: str, prefixes: tuple[str, ...]) -> str:
    """The same for every way to write a path."""
    return PurePosixPath(_inside(file, prefixes)).as_posix()


def _refuse_shared(index: Index, image: int, root: Path, allow: bool) -> None:
    """An image that is learnt from and scored on makes scores look better than they are: ValueError, or said
    aloud where that is allowed. Said, too, of one that chooses the best weights and is scored on."""
    for one, other, images in shared_images(index, image, root):
        more = f" and {len(images) - 1} more stand" if len(images) > 1 else " stands"
        name = printable(images[0])[:200]
        said = f"image '{name}'{more} in split {one!r} and in split {other!r} of the index: "
        if not _is_training(one):
            warnings.warn(f"{said}weights chosen on it score too well on it", stacklevel=3)
        elif allow:
            warnings.warn(f"{said}scores on it say nothing about new ones", stacklevel=3)
        else:
            raise ValueError(
                f"{said}scores on an image that was learnt from say nothing about new ones; take it out of "
                "one, or go on with --allow-overlap (data.allow_overlap=true), which results remark"
            )


def _held_out(images: list[str], fraction: float) -> set[str]:
    """Those of the training images that validate: the fraction, at least one, never all; none of one."""
    if not 0 <= fraction < 1:
        raise ValueError(f"data.val_fraction {fraction:g} is not within 0 (hold out nothing) and 1")
    different = list(dict.fromkeys(images))
    count = len(different)
    if count < 2 or fraction == 0:
        return set()
    held = min(max(1, round(count * fraction)), count - 1)
    order = np.random.default_rng(HOLD_OUT_SEED).permutation(count)
    return {different[place] for place in order[:held].tolist()}


def _entry(
    split: str, number: int, record: object, length: int, image: int, prefixes: tuple[str, ...]
) -> Entry:
    where = f"record {number} of split {split!r}"
    if not isinstance(record, list) or not all(file is None or isinstance(file, str) for file in record):
        raise ValueError(f"{where} is not a list of file names")
    if len(record) != length:
        raise ValueError(f"{where} has {len(record)} files where {length} belong")
    if record[image] is None:
        raise ValueError(f"{where} has no image: only targets can be null")
    return Entry(number, tuple(_relative(file, where, prefixes) for file in record), split)


def _relative(file: str | None, where: str, prefixes: tuple[str, ...]) -> str | None:
    if file is None:
        return None
    text = _inside(file, prefixes)
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise ValueError(f"{where}: path {file!r} leads out of the data folder")
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise ValueError(f"{where}: path {file!r} has control characters in it")
    return text
