"""One random crop, applied alike to an image and to all its targets.

Scale, then centre-pad to the crop where the scaled image is smaller, then a random crop, then perhaps hflip.
The crop is decided before any pixel is touched and is one map from crop to source per axis, so that only the
source pixels under the crop are read. The result equals cv2.resize of the whole followed by the crop (image
bilinear, targets nearest; tests compare them). Image bytes stay bytes until the mean is subtracted, last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from common.names import MEAN_BGR
from tasks.base import Geometry, Target

Decoder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# colour beside a picture, blue, green, red: the published code pads first and then subtracts the mean
PADDING = {"paper": (0.0, 0.0, 0.0), "metric": MEAN_BGR}


class Axis(NamedTuple):
    """One axis of a crop: `length` pixels from `start` on in an axis of `source` pixels resized to `scaled`.

    A negative start, or a crop that ends beyond `scaled`, is padding.
    """

    source: int
    scaled: int
    start: int
    length: int

    @property
    def inside(self) -> slice:
        """The part of the crop that is not padding."""
        return slice(max(0, -self.start), min(self.length, self.scaled - self.start))

    def nearest(self, stored: int) -> slice | np.ndarray:
        """Stored pixels under the crop's inside; a file of other than `source` pixels is resized first."""
        first, last = self.start + self.inside.start, self.start + self.inside.stop
        if stored == self.source == self.scaled:
            return slice(first, last)
        index = nearest_index(self.source, self.scaled)[first:last]
        return index if stored == self.source else nearest_index(stored, self.source)[index]

    def linear(self) -> tuple[float, float, slice]:
        """(step, first position, slice of the source pixels needed); the position is within the slice."""
        step = self.source / self.scaled
        first = (self.start + self.inside.start + 0.5) * step - 0.5  # pixel centres lie at halves
        last = (self.start + self.inside.stop - 0.5) * step - 0.5
        block = slice(max(0, int(np.floor(first))), min(self.source, int(np.floor(last)) + 2))
        return step, first - block.start, block


class Crop(NamedTuple):
    """How one sample is cropped: scale factor, flipped left to right or not, and the crop along both axes."""

    scale: float
    hflip: bool
    rows: Axis
    cols: Axis


def random_crop(
    rng: np.random.Generator, size: tuple[int, int], crop: int, scale: tuple[float, ...], hflip: float
) -> Crop:
    """A random crop of an image of `size` (rows, columns): `scale` a range, `hflip` a probability."""
    factor, toss, *places = rng.random(4).tolist()
    factor = scale[0] + (scale[1] - scale[0]) * factor
    rows, cols = (_place(length, factor, crop, place) for length, place in zip(size, places, strict=True))
    return Crop(factor, toss < hflip, rows, cols)


def whole(size: tuple[int, int]) -> Crop:
    """The crop that leaves an image of `size` (rows, columns) as it is."""
    return Crop(1.0, False, *(Axis(length, length, 0, length) for length in size))


def _place(length: int, factor: float, crop: int, place: float) -> Axis:
    scaled = max(1, round(length * factor))
    room = scaled - crop
    start = int(place * (room + 1)) if room >= 0 else -(-room // 2)
    return Axis(length, scaled, start, crop)


def nearest_index(source: int, target: int) -> np.ndarray:
    """Source pixel of each of `target` pixels as cv2.resize with INTER_NEAREST takes it."""
    index = np.floor(np.arange(target) * (1.0 / (target / source))).astype(np.intp)
    return np.minimum(index, source - 1)


def gather(plane: np.ndarray, rows: slice | np.ndarray, cols: slice | np.ndarray) -> np.ndarray:
    """plane[rows][:, cols] for ascending pixel numbers, reading no column outside."""
    if isinstance(cols, slice):
        return plane[:, cols][rows]
    first = int(cols[0])
    block = plane[:, first : int(cols[-1]) + 1][rows]
    if plane.ndim == 2:
        return block.take(cols - first, axis=1)
    # numpy takes three times as long to pick pixels of three bytes
    return cv2.transpose(cv2.transpose(block)[cols - first])


def crop_image(
    image: np.ndarray,
    crop: Crop,
    decode: Callable[[np.ndarray], np.ndarray],
    padding: tuple[float, float, float] = MEAN_BGR,
    float_resize: bool = False,
) -> Tensor:
    """Stored image [H, W, 3] -> mean-free float32 [3, crop, crop], blue first.

    decode: crop of the stored image -> [h, w, 3], blue first, 0..255.
    padding: colour beside the picture, 0..255; the mean is subtracted from it, too.
    float_resize: what scaling makes of bytes is not rounded to whole levels.
    """
    pixels = decode(_interpolate(image, crop, float_resize))
    if crop.hflip:
        pixels = pixels[:, ::-1]
    out = np.empty((3, crop.rows.length, crop.cols.length), np.float32)
    for channel, (colour, mean) in enumerate(zip(padding, MEAN_BGR, strict=True)):
        out[channel] = colour - mean
    inside = out[:, crop.rows.inside, _columns(crop)]
    for channel, mean in enumerate(MEAN_BGR):
        np.subtract(pixels[..., channel], np.float32(mean), out=inside[channel], dtype=np.float32)
    return torch.from_numpy(out)


def _interpolate(image: np.ndarray, crop: Crop, float_resize: bool) -> np.ndarray:
    (row_step, row, rows), (col_step, col, cols) = crop.rows.linear(), crop.cols.linear()
    block = _resized_block(image, rows, cols, (crop.rows.source, crop.cols.source))
    height, width = (_extent(axis) for axis in (crop.rows, crop.cols))
    if crop.rows.source == crop.rows.scaled and crop.cols.source == crop.cols.scaled:
        return block[:height, :width]  # whole pixels: nothing to interpolate
    if block.dtype != np.uint8 or float_resize:
        block = block.astype(np.float32)
    block = cv2.cvtColor(block, cv2.COLOR_BGR2BGRA)  # four channels take half the time of three
    matrix = np.array([[col_step, 0, col], [0, row_step, row]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (width, height)
    return cv2.warpAffine(block, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)[..., :3]


def _resized_block(image: np.ndarray, rows: slice, cols: slice, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image[rows, cols]
    height, width = image.shape[:2]
    return gather(image, nearest_index(height, size[0])[rows], nearest_index(width, size[1])[cols])


def _extent(axis: Axis) -> int:
    return axis.inside.stop - axis.inside.start


def _columns(crop: Crop) -> slice:
    """The columns of the finished crop that are not padding."""
    inside, length = crop.cols.inside, crop.cols.length
    return slice(length - inside.stop, length - inside.start) if crop.hflip else inside


def crop_target(plane: np.ndarray, crop: Crop, decode: Decoder, geometry: Geometry) -> Target:
    """Stored plane [H, W(, C)] -> Target of [K, crop, crop] and [1, crop, crop]; padding is invalid.

    decode: crop of the stored plane -> (value [K, h, w] finite, valid bool [h, w]), both new arrays.
    """
    pixels = gather(plane, crop.rows.nearest(plane.shape[0]), crop.cols.nearest(plane.shape[1]))
    value, valid = decode(pixels[:, ::-1] if crop.hflip else pixels)
    if geometry.scale == "divide":
        value /= np.float32(crop.scale)
    elif geometry.scale == "multiply":
        value *= np.float32(crop.scale)
    if crop.hflip and geometry.hflip is not None:
        value[geometry.hflip] *= -1
    return Target(torch.from_numpy(_padded(value, crop)), torch.from_numpy(_padded(valid[None], crop)))


def unknown_target(channels: int, dtype: type, crop: Crop) -> Target:
    """A Target of [channels, crop, crop] without any valid pixel."""
    size = (crop.rows.length, crop.cols.length)
    value: np.ndarray = np.zeros((channels, *size), dtype)
    return Target(torch.from_numpy(value), torch.zeros(1, *size, dtype=torch.bool))


def _padded(part: np.ndarray, crop: Crop) -> np.ndarray:
    shape = (len(part), crop.rows.length, crop.cols.length)
    if part.shape == shape:
        return np.ascontiguousarray(part)
    out = np.zeros(shape, part.dtype)
    out[:, crop.rows.inside, _columns(crop)] = part
    return out
