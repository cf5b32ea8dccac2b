"""NYUv2 in the AdaShare layout: indoor photographs with 40 classes, surface normals and depth.

A record is [image png, seg png, normal png, depth npy]. 255 marks unknown classes and normals.
A normal is (n + 1) / 2 * 255 with R = x to the right, G = z into the scene, B = up. Targets keep the order in
which cv2 reads the file (B, G, R), for which published weights were trained, so x is channel 2.
"""

from __future__ import annotations

import warnings
from functools import partial

import cv2
import numpy as np

from configs.schema import Data
from dataloaders.base import Layout, Plane
from dataloaders.conventions import check_not_negative
from dataloaders.files import map_grid, read_channels, read_colour, read_grey8
from tasks.base import Geometry, Task

IGNORED = 255
FARTHEST = 100  # metres; no room is as large, depth cameras end at 10
METRIC_NORMALS = Geometry(hflip=2)
METRIC_DEPTH = Geometry(scale="divide")  # a scene that looks twice as large is half as far away


def make_tasks(names: tuple[str, ...], data: Data, protocol: str) -> dict[str, Task]:
    """See DataSet.make_tasks. Under `paper` normals stay encoded and augmentation changes no value."""
    from tasks.depth import depth
    from tasks.normals import normals
    from tasks.segmentation import segmentation

    metric = protocol == "metric"
    geometry = METRIC_NORMALS if metric else Geometry()
    build = {
        "seg": partial(segmentation, data.classes),
        "sn": partial(normals, encoding="decoded" if metric else "encoded", geometry=geometry),
        "depth": partial(depth, geometry=METRIC_DEPTH if metric else Geometry(), unit="m"),
    }
    return {name: build[name]() for name in names}


def make_layout(data: Data, protocol: str) -> Layout:
    """What is in a record."""
    normals = decode_normals if protocol == "metric" else decode_encoded_normals
    planes = {
        "seg": Plane(1, read_grey8, decode_labels, partial(check_labels, data.classes), dtype=np.int64),
        "sn": Plane(2, read_channels, normals, channels=3),
        "depth": Plane(3, map_grid, decode_depth, check_depth),
    }
    return Layout(4, Plane(0, read_colour, decode_image), planes)


def decode_image(crop: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3], blue first as cv2 reads it."""
    return crop


def check_labels(classes: int, stored: np.ndarray) -> None:
    """Labels are below `classes`, or 255."""
    wrong = stored[(stored >= classes) & (stored != IGNORED)]
    if wrong.size:
        hint = f"; if its classes are 1..{classes} and 0 is void, subtract 1 (0 becomes {IGNORED})"
        where = hint if wrong.max() == classes else ""
        raise ValueError(f"holds label {wrong[0]}, neither below {classes} nor {IGNORED} (ignored){where}")


def decode_labels(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w] -> class numbers int64 [1, h, w], valid where not 255."""
    valid = crop != IGNORED
    return (crop * valid).astype(np.int64)[None], valid


def decode_encoded_normals(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3] -> float32 [3, h, w], 0..255 (up, forward, right); valid where no channel is 255."""
    channels = cv2.split(crop)
    valid = cv2.max(cv2.max(channels[0], channels[1]), channels[2]) != IGNORED
    return np.array(channels, np.float32), valid


def decode_normals(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3] -> float32 [3, h, w], -1..1 (up, forward, right); valid where no channel is 255."""
    value, valid = decode_encoded_normals(crop)
    value *= np.float32(2 / 255)
    value -= 1
    return value, valid


def check_depth(stored: np.ndarray) -> None:
    """Missing depth is 0 or infinite (or -1, as some converters write it), never NaN."""
    lowest = stored.min()
    if np.isnan(lowest):  # min passes NaN on: one pass, no temporary array
        raise ValueError("holds NaN where depth in metres belongs")
    check_not_negative(stored, lowest, "depth in metres")
    farthest = float(stored.max())
    if FARTHEST < farthest < np.inf:
        warnings.warn(
            f"depth reaches {farthest:g} where metres belong: if it is in millimetres, divide it by 1000",
            stacklevel=2,
        )


def decode_depth(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """metres [h, w] -> float32 [1, h, w], valid where finite and positive."""
    valid = (crop > 0) & (crop < np.inf)
    return np.where(valid, crop, 0).astype(np.float32)[None], valid
