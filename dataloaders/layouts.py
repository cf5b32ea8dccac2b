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

from dataloaders.writing import write_json, write_npy, write_png
from dataloaders.scenes.furniture import KINDS
from dataloaders.scenes.render import View

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


def frame(shape: tuple[int, int], share: float) -> np.ndarray:
    """bool [H, W], True in a border as thick as this share of the height."""
    thick = max(round(share * shape[0]), 1)
    border = np.ones(shape, bool)
    border[thick:-thick, thick:-thick] = False
    return border


def outlines(solid: np.ndarray) -> np.ndarray:
    """bool [H, W], True beside a border between two solids; about 1/240 of the height wide."""
    width = 2 * max(round(solid.shape[0] / 480), 1) - 1
    plane, box = solid.astype(np.float32), np.ones((width + 1, width + 1), np.uint8)
    return cv2.dilate(plane, box) != cv2.erode(plane, box)


def jumps(depth: np.ndarray) -> np.ndarray:
    """bool [H, W], True where depth changes by 8 % and 2 cm between neighbours: a depth camera fails."""
    box = np.ones((3, 3), np.uint8)
    return cv2.dilate(depth, box) > 1.08 * cv2.erode(depth, box) + 0.02


def nyuv2(root: Path, name: str, view: View) -> Record:
    """img png, seg png with 255 = unlabelled, normal png with 255 = invalid, depth npy in metres."""
    seg = numbers(NYU40, MISSING)[view.kind].astype(np.uint8)
    seg[frame(seg.shape, 1 / 60) | outlines(view.solid)] = MISSING
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


@dataclass(frozen=True)
class Layout:
    """size: (height, width) of the real files; write(root, name, view) -> record; finish(root, splits)."""

    index_file: str
    size: tuple[int, int]
    write: Callable[[Path, str, View], Record]
    name: Callable[[str, int], str]
    finish: Callable[[Path, dict[str, list[Record]]], None] = lambda root, splits: None

    def close(self, root: Path, splits: dict[str, list[Record]]) -> None:
        """Write what stands beside the records; the index last, so that its presence means a complete set."""
        self.finish(root, splits)
        write_json(root / self.index_file, splits)


LAYOUTS: dict[str, Layout] = {
    "nyuv2": Layout("nyu_v2_3task.json", (480, 640), nyuv2, lambda split, number: f"{number:04d}"),
}
