"""One plane of a sample from its file: PNG pictures and npy arrays, checked for kind and shape.

Errors are ValueErrors whose text is the end of a sentence that begins with the file's name ("is no complete
picture"); base.py puts the name in front. Files that cannot be opened raise OSError.
Refused by name: pipes and devices (reading would never end), pictures of more than MAX_PIXELS, palettes (a
label holds class numbers, not colours), other formats than PNG where pixels are numbers, pictures to be shown
turned (EXIF; nobody knows if their targets are turned), and pickled arrays, which could run code.
"""

from __future__ import annotations

import io
import stat
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import cv2
import numpy as np
from PIL import Image

MAX_PIXELS = 2**26  # 8192 x 8192: told before memory is taken
PNG, PALETTE = b"\x89PNG\r\n\x1a\n", 3  # how every PNG begins; its colour type for palettes
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # how every PNG ends
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF tag, and its value for "as stored"
KINDS = {"f": "floating point", "iuf": "integer or floating point"}

# what OpenCV finds in a damaged picture is said here, in one sentence
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class Pictures:
    """Reads a picture as an array [H, W] of one channel, or [H, W, 3] in cv2's order (blue first).

    colours: pixels are colours, so that pictures of other kinds are converted; else they are refused.
    """

    dtype: type
    channels: int
    colours: bool = False

    def __call__(self, path: Path) -> np.ndarray:
        if self.colours:
            return _decode(path, cv2.IMREAD_COLOR)
        return _expect(_decode(path, cv2.IMREAD_UNCHANGED), self.dtype, self.channels)

    def gives(self, array: np.ndarray) -> bool:
        """Whether it might have read this array."""
        behind = () if self.channels == 1 else (self.channels,)
        return bool(
            array.dtype == self.dtype and array.ndim >= 2 and array.shape[2:] == behind and array.size
        )


read_colour = Pictures(np.uint8, 3, colours=True)  # grey pictures are repeated three times
read_channels = Pictures(np.uint8, 3)  # three channels that are no colours
read_grey8 = Pictures(np.uint8, 1)
read_grey16 = Pictures(np.uint16, 1)


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
    _check_regular(path)
    content = path.read_bytes()
    _check_header(content, as_colours=flag == cv2.IMREAD_COLOR)
    flag |= cv2.IMREAD_IGNORE_ORIENTATION if flag == cv2.IMREAD_COLOR else 0
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), flag) if content else None
    if picture is None:
        raise ValueError("is no complete picture")
    return picture


def check_whole(path: Path) -> None:
    """ValueError for a PNG file that lacks its beginning or end, as a download that broke off leaves it."""
    _check_regular(path)
    with path.open("rb") as file:
        first = file.read(len(PNG))
        file.seek(max(0, path.stat().st_size - len(PNG_END)))
        if first != PNG or file.read() != PNG_END:
            raise ValueError("is no complete PNG picture")


def _check_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a folder is an error that says so
        raise ValueError("is a pipe, a socket or a device, not a file")


def _check_header(content: bytes, as_colours: bool) -> None:
    """as_colours: whether pixels are colours, which other formats than PNG keep well enough."""
    is_png = content.startswith(PNG) and len(content) >= 26
    if is_png:
        _check_pixels(*struct.unpack(">II", content[16:24]))
        if content[25] == PALETTE and not as_colours:
            raise ValueError(
                "is a palette picture, whose pixels are colours: save its numbers as grey values"
            )
    if not is_png or b"eXIf" in content:
        _check_other_header(content, as_colours)


def _check_other_header(content: bytes, as_colours: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels: they are refused here
            header = Image.open(io.BytesIO(content))  # decodes nothing yet
            turned = header.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
    except Image.DecompressionBombError as error:
        raise ValueError(f"has more than the {MAX_PIXELS} pixels that are read") from error
    except (OSError, SyntaxError, ValueError):  # the decoder judges
        return
    _check_pixels(*header.size)
    if header.format != "PNG" and not as_colours:
        raise ValueError(f"is a {header.format} picture where PNG, which keeps every number, belongs")
    if turned:
        raise ValueError("is marked to be shown turned (EXIF orientation): turn its pixels and drop the mark")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"has {width} x {height} pixels, more than the {MAX_PIXELS} that are read")


def _expect(picture: np.ndarray, dtype: type, channels: int) -> np.ndarray:
    found = 1 if picture.ndim == 2 else picture.shape[2]
    if found != channels:
        raise ValueError(f"has {found} channel(s) a pixel where {channels} belong")
    if picture.dtype != dtype:
        raise ValueError(f"holds {picture.dtype} values where {np.dtype(dtype)} belongs")
    return picture


def open_npy(path: Path, behind: int | None = None) -> np.ndarray:
    """Any npy array but pickled ones, mapped and not read.

    behind: bytes that must follow the array in its file; None = however many.
    """
    _check_regular(path)
    try:
        with np.errstate(over="ignore"):  # sizes beyond any file
            array = np.lib.format.open_memmap(path, mode="r")
        if behind is not None and array.offset + array.nbytes + behind != path.stat().st_size:
            raise ValueError("its array is longer or shorter than its file")
        return array.view(np.ndarray)
    except (
        ValueError,
        OverflowError,
        TokenError,
        MemoryError,
        RecursionError,
        TypeError,
    ) as error:  # the header is parsed as Python
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
    if array.size == 0:
        raise ValueError(f"has shape {list(array.shape)}, which holds nothing")
    _check_pixels(array.shape[1], array.shape[0])
    return array
