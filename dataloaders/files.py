"""One plane of a sample from its file: PNG pictures and npy arrays, checked for kind and shape.

Errors are ValueErrors whose text is the end of a sentence that begins with the file's name ("is no complete
picture"); base.py puts the name in front. Files that cannot be opened raise OSError.
Left out: colour palettes (a label holds class numbers, not colours) and pickled arrays, which could run code.
"""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np

KINDS = {"f": "floating point", "iuf": "integer or floating point"}


def read_colour(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], channels in cv2's order (blue first); grey pictures are repeated three times."""
    return _decode(path, cv2.IMREAD_COLOR)


def read_channels(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] as stored, channels in cv2's order: pictures whose channels are no colours."""
    return _expect(_decode(path, cv2.IMREAD_UNCHANGED), np.uint8, 3)


def read_grey8(path: Path) -> np.ndarray:
    """uint8 [H, W]."""
    return _expect(_decode(path, cv2.IMREAD_UNCHANGED), np.uint8, 1)


def read_grey16(path: Path) -> np.ndarray:
    """uint16 [H, W]."""
    return _expect(_decode(path, cv2.IMREAD_UNCHANGED), np.uint16, 1)


def map_grid(path: Path) -> np.ndarray:
    """Floating point [H, W] from npy, mapped and not read; a trailing axis of 1 is dropped."""
    return _map(path, "f", 1)


def map_labels(path: Path) -> np.ndarray:
    """Class numbers [H, W] from npy of any integer or floating point type, mapped and not read."""
    return _map(path, "iuf", 1)


def map_image(path: Path) -> np.ndarray:
    """Floating point [H, W, 3] from npy, mapped and not read."""
    return _map(path, "f", 3)


def _decode(path: Path, flag: int) -> np.ndarray:
    content = path.read_bytes()
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    if picture is None:
        raise ValueError("is no complete picture")
    return picture


def _expect(picture: np.ndarray, dtype: type, channels: int) -> np.ndarray:
    found = 1 if picture.ndim == 2 else picture.shape[2]
    if found != channels:
        raise ValueError(f"has {found} channel(s) a pixel where {channels} belong")
    if picture.dtype != dtype:
        raise ValueError(f"holds {picture.dtype} values where {np.dtype(dtype)} belongs")
    return picture


def open_npy(path: Path) -> np.ndarray:
    """Any npy array but pickled ones, mapped and not read."""
    try:
        return np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    except (ValueError, OverflowError, TokenError) as error:  # the header is parsed as Python
        raise ValueError("is no complete npy array") from error


def _map(path: Path, kinds: str, channels: int) -> np.ndarray:
    array = open_npy(path)
    if array.dtype.kind not in kinds:
        raise ValueError(f"holds {array.dtype} values where {KINDS[kinds]} belongs")
    if channels == 1 and array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != (2 if channels == 1 else 3) or (channels > 1 and array.shape[2] != channels):
        wanted = "[H, W]" if channels == 1 else f"[H, W, {channels}]"
        raise ValueError(f"has shape {list(array.shape)} where {wanted} belongs")
    return array
