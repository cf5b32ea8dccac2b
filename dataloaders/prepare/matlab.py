"""MATLAB files as they come from the internet: nothing in them is trusted, every mistake is one sentence."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from scipy import io

from dataloaders.files import MAX_PIXELS


def load_mat(path: Path, name: str, what: str) -> np.ndarray:
    """One variable of a MATLAB file up to version 7. what: "the official split", for people."""
    try:
        content = io.loadmat(str(path), variable_names=[name])
    except Exception as error:  # the reader raises whatever a broken file leads it to
        raise ValueError(f"{path} is not a MATLAB file that can be read: it is not {what}") from error
    if not isinstance(content.get(name), np.ndarray):
        raise ValueError(f"{path} holds no {name}: it is not {what}")
    return content[name]


def whole_numbers(path: Path, name: str, what: str) -> np.ndarray:
    """A variable of whole numbers, int64 [N]."""
    return as_numbers(load_mat(path, name, what), path, name)


def as_numbers(array: np.ndarray, path: Path, name: str) -> np.ndarray:
    """The array as int64 [N]; ValueError if it holds anything else."""
    flat = np.ravel(array)
    if (
        flat.dtype.kind not in "iuf"
        or not flat.size
        or not (np.isfinite(flat) & (flat == np.floor(flat))).all()
    ):
        raise ValueError(f"{path}: {name} is not a list of whole numbers")
    return flat.astype(np.int64)


def dataset(file: h5py.File, path: Path, name: str, kinds: str, axes: int) -> h5py.Dataset:
    """An array of an HDF5 file that lies in that very file.

    ValueError for links (they may pull in any file of this machine), groups, other types and shapes.
    """
    link = file.get(name, getlink=True)
    if link is None:
        raise ValueError(f"{path} holds no {name}: it is not the labelled set")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{path}: {name} is a link to somewhere else, which is not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{path}: {name} is a group, not an array")
    if found.external or found.is_virtual:
        raise ValueError(f"{path}: {name} takes its values from other files, which are not read")
    if found.dtype.kind not in kinds or found.ndim != axes or 0 in found.shape:
        raise ValueError(
            f"{path}: {name} is {found.dtype} {list(found.shape)}, not what the labelled set holds"
        )
    if found.shape[-1] * found.shape[-2] > MAX_PIXELS:
        raise ValueError(f"{path}: {name} has images of more than the {MAX_PIXELS} pixels that are read")
    return found
