"""Cityscapes in the AdaShare layout: street scenes at 256 x 512 with 2, 7 or 19 classes and inverse depth.

A record is [image npy, depth npy, label2 npy, label7 npy, label19 npy]. The image is RGB in [0, 1], -1 marks
pixels without a class, and depth is disparity, known where it exceeds 3e-5. Files are mapped, not read: of an
image only the pixels under the crop leave the disk.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from configs.schema import Data
from dataloaders.base import Layout, Plane
from dataloaders.conventions import check_not_negative
from dataloaders.files import map_grid, map_image, map_labels
from tasks.base import Geometry, Task

IGNORED = -1
LABEL_COLUMNS = {2: 2, 7: 3, 19: 4}  # number of classes -> column of the record
SMALLEST_DISPARITY = 3e-5
METRIC_DISPARITY = Geometry(scale="multiply")  # a scene that looks twice as large is half as far away


def make_tasks(names: tuple[str, ...], data: Data, protocol: str) -> dict[str, Task]:
    """See DataSet.make_tasks. Under `paper` augmentation changes no value."""
    from tasks.depth import depth
    from tasks.segmentation import segmentation

    _label_column(data.classes)
    geometry = METRIC_DISPARITY if protocol == "metric" else Geometry()
    build = {
        "seg": partial(segmentation, data.classes, ignored_is_error=True),
        "depth": partial(depth, geometry=geometry, unit="disparity"),
    }
    return {name: build[name]() for name in names}


def make_layout(data: Data, protocol: str) -> Layout:
    """What is in a record. The number of classes chooses the file of labels."""
    column = _label_column(data.classes)
    planes = {
        "seg": Plane(column, map_labels, decode_labels, partial(check_labels, data.classes), dtype=np.int64),
        "depth": Plane(1, map_grid, decode_disparity, check_disparity),
    }
    return Layout(5, Plane(0, map_image, decode_image), planes)


def _label_column(classes: int) -> int:
    if classes not in LABEL_COLUMNS:
        raise ValueError(f"data.classes {classes} is not one of {', '.join(map(str, LABEL_COLUMNS))}")
    return LABEL_COLUMNS[classes]


def decode_image(crop: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] in [0, 1] -> float32 [h, w, 3], blue first, 0..255."""
    low, high = crop.min(), crop.max()
    if not (low >= -1e-3 and high <= 1.001):  # interpolation may leave the range by a rounding
        raise ValueError(f"holds values from {low:g} to {high:g} where colours in [0, 1] belong")
    return crop[..., ::-1] * np.float32(255)


def check_labels(classes: int, stored: np.ndarray) -> None:
    """Labels are below `classes`, or -1."""
    low, high = stored.min(), stored.max()
    if not (low >= IGNORED and high < classes):
        wrong = low if low < IGNORED else high
        raise ValueError(f"holds label {wrong:g}, neither within 0..{classes - 1} nor {IGNORED} (ignored)")


def decode_labels(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[h, w] -> class numbers int64 [1, h, w], valid where not -1."""
    value = crop.astype(np.int64)
    if crop.dtype.kind == "f" and (value != crop).any():
        raise ValueError("holds fractions where class numbers belong")
    return np.maximum(value, 0)[None], value != IGNORED


def check_disparity(stored: np.ndarray) -> None:
    """Missing disparity is 0 (or -1, as some converters write it), never NaN or infinite."""
    lowest = stored.min()
    if not np.isfinite(lowest) or not np.isfinite(stored.max()):
        raise ValueError("holds NaN or infinity where disparity belongs")
    check_not_negative(stored, lowest, "disparity")


def decode_disparity(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[h, w] -> float32 [1, h, w], valid where above 3e-5."""
    valid = crop > SMALLEST_DISPARITY
    return np.maximum(crop, 0, dtype=np.float32)[None], valid
