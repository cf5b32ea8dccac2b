"""The index of a data set: a JSON file in its root, split -> list of records, a record = relative paths.

Checked once, when it is read: splits, record lengths, and that no path leads out of the root.
A split "val" that the index lacks is taken from "train" by a fixed seed, the same records in every run.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from common.files import read_json

HOLD_OUT_SEED = 2206  # fixed: every run of every method validates on the same records


class Entry(NamedTuple):
    """A record, and where the index file holds it: the split, and its place (from 0) in that list."""

    number: int
    files: tuple[str, ...]
    split: str


def read_index(root: str, index_file: str, how_to_get: str) -> dict[str, list]:
    """split -> list of records. FileNotFoundError says how to get the data, ValueError what is wrong."""
    path = existing_folder(root, how_to_get) / index_file
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the index of the data set, does not exist: {how_to_get}")
    index = read_json(path)
    if not isinstance(index, dict) or not all(isinstance(records, list) for records in index.values()):
        raise ValueError(f"{path} must hold an object that maps each split to its list of records")
    return index


def existing_folder(root: str, how_to_get: str) -> Path:
    """The data set's folder; FileNotFoundError says how to get the data."""
    if not root:
        raise FileNotFoundError(f"no data folder is given (--data-root): {how_to_get}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data folder {root} does not exist: {how_to_get}")
    return Path(root)


def entries(index: dict[str, list], split: str, length: int, val_fraction: float) -> tuple[Entry, ...]:
    """The records of one split, checked. length: files in a record; val_fraction: see _held_out."""
    source = "train" if split == "val" and "val" not in index else split
    if source not in index:
        choices = sorted({*index, *(["val"] if "train" in index else [])})
        raise ValueError(
            f"split {split!r} is not one of {', '.join(choices) or '(none: the index is empty)'}"
        )
    checked = [_entry(source, number, record, length) for number, record in enumerate(index[source])]
    if not checked:
        raise ValueError(f"split {source!r} of the index holds no record")
    if "val" not in index and split in ("train", "val"):
        held = _held_out(len(checked), val_fraction)
        if split == "val" and not held:
            raise ValueError(
                f"the index has no split 'val', and its {len(checked)} training record(s) at "
                f"data.val_fraction {val_fraction:g} leave none to validate on: use --set run.select_on=test"
            )
        checked = [entry for entry in checked if (entry.number in held) == (split == "val")]
    return tuple(checked)


def _held_out(count: int, fraction: float) -> set[int]:
    """Places of the training records that validate: the fraction, at least one, never all; none of one."""
    if not 0 <= fraction < 1:
        raise ValueError(f"data.val_fraction {fraction:g} is not within 0 (hold out nothing) and 1")
    if count < 2 or fraction == 0:
        return set()
    held = min(max(1, round(count * fraction)), count - 1)
    return set(np.random.default_rng(HOLD_OUT_SEED).permutation(count)[:held].tolist())


def _entry(split: str, number: int, record: object, length: int) -> Entry:
    where = f"record {number} of split {split!r}"
    if not isinstance(record, list) or not all(isinstance(file, str) for file in record):
        raise ValueError(f"{where} is not a list of file names")
    if len(record) != length:
        raise ValueError(f"{where} has {len(record)} files where {length} belong")
    for file in record:
        path = PurePosixPath(file)
        if not path.parts or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{where}: path {file!r} leads out of the data folder")
    return Entry(number, tuple(record), split)
