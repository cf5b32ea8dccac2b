"""Tiny-Taskonomy: indoor scans with classes, normals, depth, 2D keypoints and edges.

A record is ["building/domain/file", ...] for rgb, seg, normal, depth, keypoint, edge. On disk a file lies at
domain/taskonomy/building/file or at building/domain/file. All planes are resized to data.size (256), nearest.
seg: id 0 is void, ids 1.. are the classes. The loss weights of the classes are in semseg_prior_factor.npy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from configs.schema import Data
from dataloaders.base import Layout, Plane
from dataloaders.files import open_npy, read_channels, read_colour, read_grey8, read_grey16
from dataloaders.index import existing_folder
from tasks.base import Geometry, Task

PRIOR_FILE = "semseg_prior_factor.npy"
STEPS = 2**16  # of the 16-bit planes
FARTHEST = 64500  # depths from here on are unknown
KEYPOINT_TOP, EDGE_TOP = 0.005, 0.08  # values that stretch to 1; above they are clipped
NORMALS = Geometry(hflip=0)


def make_tasks(names: tuple[str, ...], data: Data, protocol: str) -> dict[str, Task]:
    """See DataSet.make_tasks. With "seg", the weights of the classes are read from data.root."""
    from tasks.depth import depth
    from tasks.edges import edges
    from tasks.keypoints import keypoints
    from tasks.normals import normals
    from tasks.segmentation import segmentation

    build: dict[str, Callable[[], Task]] = {
        "seg": lambda: segmentation(data.classes, class_weights=class_weights(data.root, data.classes)),
        "sn": partial(normals, encoding="decoded", geometry=NORMALS),
        "depth": partial(depth, geometry=Geometry(), unit="log"),
        "keypoint": keypoints,
        "edge": edges,
    }
    return {name: build[name]() for name in names}


def make_layout(data: Data, protocol: str) -> Layout:
    """What is in a record.

    Under `paper` void pixels count as class 0 and images are scaled as floats (published code); under
    `metric` void pixels are ignored.
    """
    image = Plane(0, read_colour, decode_image, float_resize=protocol == "paper")
    labels = decode_labels if protocol == "metric" else decode_labels_and_void
    planes = {
        "seg": Plane(1, read_grey8, labels, partial(check_labels, data.classes), dtype=np.int64),
        "sn": Plane(2, read_channels, decode_normals, channels=3),
        "depth": Plane(3, read_grey16, decode_depth),
        "keypoint": Plane(4, read_grey16, partial(decode_stretched, KEYPOINT_TOP)),
        "edge": Plane(5, read_grey16, partial(decode_stretched, EDGE_TOP)),
    }
    return Layout(6, image, planes, locate)


def locate(root: Path, record: str) -> Path:
    """Where the file "building/domain/file" lies, in either order of folders."""
    parts = Path(record).parts
    if len(parts) == 3:
        building, domain, name = parts
        by_domain = root / domain / "taskonomy" / building / name
        if by_domain.exists():
            return by_domain
    return root / record


def class_weights(root: str, classes: int) -> Tensor:
    """The weight of each class in the loss, [classes]. FileNotFoundError or ValueError says what is wrong."""
    path = existing_folder(root) / PRIOR_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the weights of the classes in the loss, does not exist")
    try:
        weights = open_npy(path)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    if weights.shape != (classes,):
        raise ValueError(f"{path} has shape {list(weights.shape)} where [{classes}] belongs (data.classes)")
    if weights.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds {weights.dtype} values where weights belong")
    with np.errstate(over="ignore"):  # what is too large for 32 bits becomes infinite
        narrow = np.array(weights, np.float32)  # read, not mapped
    if not (np.isfinite(narrow) & (narrow >= 0)).all():
        raise ValueError(f"{path} holds weights that are negative or not finite")
    if not narrow.any():
        raise ValueError(f"{path} holds no weight above 0: no class would count")
    return torch.from_numpy(narrow)


def decode_image(crop: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3], blue first as cv2 reads it."""
    return crop


def check_labels(classes: int, stored: np.ndarray) -> None:
    """Ids are 0 (void) to `classes`. Images without any label do occur."""
    if stored.max() > classes:
        raise ValueError(f"holds label {stored.max()}, neither within 1..{classes} nor 0 (void)")


def decode_labels(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids uint8 [h, w] -> class numbers int64 [1, h, w], valid where not void."""
    return np.maximum(crop, 1).astype(np.int64)[None] - 1, crop > 0


def decode_labels_and_void(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids uint8 [h, w] -> class numbers int64 [1, h, w], void = class 0, all valid."""
    return decode_labels(crop)[0], np.ones(crop.shape, bool)


def decode_normals(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [h, w, 3], blue first -> float32 [3, h, w] in -1..1, red (x) first, all valid."""
    value = np.array(cv2.split(crop)[::-1], np.float32)
    value *= np.float32(2 / 255)
    value -= 1
    return value, np.ones(crop.shape[:2], bool)


def decode_depth(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint16 [h, w] -> float32 [1, h, w], log(1 + d) / log(2^16), valid below 64500."""
    value = np.log1p(crop, dtype=np.float32)
    value /= np.float32(np.log(STEPS))
    return value[None], crop < FARTHEST


def decode_stretched(top: float, crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint16 [h, w] -> float32 [1, h, w]: crop / 2^16 in [0, top], stretched to [-1, 1]; all valid."""
    value = np.minimum(crop, np.float32(top * STEPS), dtype=np.float32)
    value *= np.float32(2 / (top * STEPS))
    value -= 1
    return value[None], np.ones(crop.shape, bool)
