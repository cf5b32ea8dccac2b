"""Views of synthetic rooms in the file layouts of the real data sets.

Each layout is a row: the names of its files, its size, and how a view becomes a record. Values follow the
real files: see the module of each data set for how they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataloaders.conventions import TO_2, TO_7, coarser, median_frequency, official_name
from dataloaders.files import read_grey8
from dataloaders.scenes.furniture import KINDS
from dataloaders.scenes.render import View
from dataloaders.writing import write_npy, write_png

Record = list[str]
MISSING = 255  # NYUv2: unlabelled in segmentation, invalid in normals


def numbers(table: dict[str, int], other: int) -> np.ndarray:
    """A table from positions in KINDS to a data set's class numbers."""
    return np.array([table.get(kind, other) for kind in KINDS])


# positions in the 40 classes of NYUv2
NYU40 = {
    "wall": 0, "floor": 1, "cabinet": 2, "bed": 3, "chair": 4, "sofa": 5, "table": 6, "door": 7, "window": 8,
    "bookshelf": 9, "picture": 10, "pillow": 17, "rug": 19, "ceiling": 21, "refrigerator": 23,
    "television": 24, "box": 28, "whiteboard": 29, "lamp": 34, "plant": 38, "vase": 39, "bottle": 39,
    "clock": 39, "ball": 39,
}  # fmt: skip

# train ids of Cityscapes: indoor things lend their places to outdoor classes
CITY19 = {
    "floor": 0, "rug": 1, "wall": 2, "cabinet": 3, "bookshelf": 4, "lamp": 5, "clock": 6, "picture": 7,
    "plant": 8, "whiteboard": 9, "ceiling": 10, "window": 10, "chair": 11, "pillow": 12, "table": 13,
    "refrigerator": 14, "bed": 15, "sofa": 16, "door": 17, "box": 18,
}  # fmt: skip
DISPARITY_AT_1M = 0.3  # keeps rooms within the values of the real files, 0 to 0.49
# classes of Taskonomy: 1 is background, 0 (void) what is none of them
TASKONOMY17 = {
    "wall": 1, "floor": 1, "ceiling": 1, "door": 1, "window": 1, "rug": 1, "cabinet": 1, "picture": 1,
    "whiteboard": 1, "bottle": 2, "chair": 3, "sofa": 4, "plant": 5, "bed": 6, "pillow": 6, "table": 7,
    "television": 9, "lamp": 10, "box": 12, "refrigerator": 14, "bookshelf": 15, "clock": 16, "vase": 17,
}  # fmt: skip


def frame(shape: tuple[int, int], share: float) -> np.ndarray:
    """bool [H, W], True in a border as thick as this share of the height."""
    thick = max(round(share * shape[0]), 1)
    border = np.ones(shape, bool)
    border[thick:-thick, thick:-thick] = False
    return border


def outlines(kind: np.ndarray) -> np.ndarray:
    """bool [H, W], True beside a border between two kinds: annotators leave such pixels out."""
    box = np.ones((1 + 2 * max(round(kind.shape[0] / 480), 1),) * 2, np.uint8)
    return cv2.dilate(kind, box) != cv2.erode(kind, box)


def jumps(depth: np.ndarray) -> np.ndarray:
    """bool [H, W], True where depth changes by 8 % and 2 cm between neighbours: a depth camera fails."""
    box = np.ones((3, 3), np.uint8)
    return cv2.dilate(depth, box) > 1.08 * cv2.erode(depth, box) + 0.02


def nyuv2(root: Path, name: str, view: View) -> Record:
    """img png, seg png with 255 = unlabelled, normal png with 255 = invalid, depth npy in metres."""
    seg = numbers(NYU40, MISSING)[view.kind].astype(np.uint8)
    seg[frame(seg.shape, 1 / 60) | outlines(view.kind)] = MISSING
    right, up, forward = view.normal
    normal = np.stack([right, forward, up], -1)
    # a floor seen by a level camera would be 255 in B, the mark of a missing pixel
    normal = np.clip(np.round((normal + 1) / 2 * 255), 0, 254).astype(np.uint8)
    normal[frame(seg.shape, 1 / 40) | view.blind | jumps(view.depth)] = MISSING
    record = [f"img/{name}.png", f"seg/{name}.png", f"normal_mask/{name}.png", f"depth/{name}.npy"]
    for path, plane in zip(record, (view.image, seg, normal), strict=False):
        write_png(root / path, plane)
    write_npy(root / record[3], view.depth.astype(np.float32))
    return record


def cityscapes(root: Path, name: str, view: View) -> Record:
    """image npy RGB in [0, 1], depth npy [H, W, 1] (inverse depth, 0 = none), labels npy, -1 = ignored."""
    label = numbers(CITY19, -1)[view.kind].astype(np.int8)
    label[frame(label.shape, 1 / 60) | outlines(view.kind)] = -1
    inverse = DISPARITY_AT_1M / view.depth
    inverse[view.blind | frame(label.shape, 1 / 40)] = 0
    split, number = name.split("/")
    record = [
        f"{split}/{folder}/{number}.npy" for folder in ("image", "depth", "label_2", "label_7", "label_19")
    ]
    planes = (
        view.image.astype(np.float32) / 255,
        inverse.astype(np.float32)[..., None],
        coarser(label, TO_2),
        coarser(label, TO_7),
        label,
    )
    for path, plane in zip(record, planes, strict=True):
        write_npy(root / path, plane)
    return record


def taskonomy(root: Path, name: str, view: View) -> Record:
    """Six png planes a record, named as in the official downloads; values: see dataloaders/taskonomy.py."""
    building, stem = name.split("/")
    right, up, forward = view.normal
    depth = np.where(view.blind, 65535, np.minimum(view.depth * 512, 64000)).astype(np.uint16)
    planes = {
        "rgb": view.image,
        "segment_semantic": numbers(TASKONOMY17, 0)[view.kind].astype(np.uint8),
        "normal": np.round((np.stack([right, up, -forward], -1) + 1) / 2 * 255).astype(np.uint8),
        "depth_zbuffer": depth,
        "keypoints2d": keypoints(view.image),
        "edge_texture": edges(view.image),
    }
    for domain, plane in planes.items():
        write_png(root / domain / "taskonomy" / building / official_name(stem, domain), plane)
    return [f"{building}/{domain}/{official_name(stem, domain)}" for domain in planes]


def edges(image: np.ndarray) -> np.ndarray:
    """uint16 [H, W]: strength of grey edges, of which loaders keep up to 0.08 * 2^16."""
    dx, dy = _slopes(image, 1.0)
    return (np.minimum(0.5 * np.hypot(dx, dy), 0.12) * 2**16).astype(np.uint16)


def keypoints(image: np.ndarray) -> np.ndarray:
    """uint16 [H, W]: how much of a corner a pixel is, of which loaders keep up to 0.005 * 2^16.

    The smaller eigenvalue of the local 2 x 2 matrix of slopes: large where grey changes in both directions.
    """
    dx, dy = _slopes(image, 0.7)
    xx, yy, xy = (cv2.GaussianBlur(p, (0, 0), 2.0) for p in (dx * dx, dy * dy, dx * dy))
    smaller = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy * xy)
    return (np.minimum(8 * np.maximum(smaller, 0), 0.008) * 2**16).astype(np.uint16)


def _slopes(image: np.ndarray, blur: float) -> tuple[np.ndarray, np.ndarray]:
    """Grey change a pixel to the right and down, of an RGB image scaled to [0, 1]."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, (0, 0), blur)
    kernel = np.array([[-0.5, 0, 0.5]], np.float32)
    return cv2.filter2D(grey, -1, kernel), cv2.filter2D(grey, -1, kernel.T)


def write_priors(root: Path, splits: dict[str, list[Record]]) -> None:
    """semseg_prior_factor.npy from the training labels that have just been written."""
    counts = np.zeros(18, np.int64)
    for record in splits["train"]:
        building, domain, name = record[1].split("/")
        label = read_grey8(root / domain / "taskonomy" / building / name)
        counts += np.bincount(label.ravel(), minlength=18)
    write_npy(root / "semseg_prior_factor.npy", median_frequency(counts[1:]))


def building(split: str, number: int) -> str:
    """Eight images share a building, none stands in two splits."""
    return f"{split}{number // 8:03d}/point_{number}_view_0"


@dataclass(frozen=True)
class Layout:
    """size: (height, width) of the real files; write(root, name, view) -> record.

    name(split, number) -> name for write; finish(root, splits) writes what stands beside the records.
    """

    index_file: str
    size: tuple[int, int]
    write: Callable[[Path, str, View], Record]
    name: Callable[[str, int], str]
    finish: Callable[[Path, dict[str, list[Record]]], None] = lambda root, splits: None


LAYOUTS: dict[str, Layout] = {
    "nyuv2": Layout("nyu_v2_3task.json", (480, 640), nyuv2, lambda split, number: f"{number:04d}"),
    "cityscapes": Layout("cityscape.json", (256, 512), cityscapes, lambda split, number: f"{split}/{number}"),
    "taskonomy": Layout("taskonomy.json", (512, 512), taskonomy, building, write_priors),
}
