"""Data sets of a few tiny pictures for tests, in the real file layouts, and helpers to open them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from configs.load import load
from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.base import Records

SIZE = (12, 16)
TASKONOMY_DOMAINS = ("rgb", "segment_semantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")


def save(path: Path, plane: np.ndarray) -> None:
    """A plane as png or npy, by its file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, plane)
    else:
        assert cv2.imwrite(str(path), plane)


def numbers(seed: int, high: int, shape: tuple[int, ...] = SIZE, dtype: type = np.uint8) -> np.ndarray:
    """Random numbers 0..high-1."""
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def write_index(root: Path, dataset: str, splits: dict[str, list]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / DATASETS[dataset].index_file).write_text(json.dumps(splits))


def nyuv2(root: Path, count: int = 4, split: str = "train") -> Path:
    """`count` records in one split, and one more in the other of train and test."""
    records = []
    for k in range(count + 1):
        record = [f"img/{k}.png", f"seg/{k}.png", f"normal/{k}.png", f"depth/{k}.npy"]
        planes = (
            numbers(k, 256, (*SIZE, 3)),
            numbers(k, 40),
            numbers(k, 255, (*SIZE, 3)),
            numbers(k, 9, dtype=np.float32) + 1,
        )
        for file, plane in zip(record, planes, strict=True):
            save(root / file, plane)
        records.append(record)
    write_index(
        root, "nyuv2", {split: records[:count], "test" if split == "train" else "train": records[count:]}
    )
    return root


def cityscapes(root: Path, count: int = 1) -> Path:
    records = []
    for k in range(count):
        record = [f"{name}/{k}.npy" for name in ("image", "depth", "label2", "label7", "label19")]
        planes = (
            numbers(k, 256, (*SIZE, 3)) / np.float32(255),
            (numbers(k, 9) / np.float32(32))[..., None],
            *(numbers(k, classes + 1, dtype=np.int64) - 1 for classes in (2, 7, 19)),
        )
        for file, plane in zip(record, planes, strict=True):
            save(root / file, plane)
        records.append(record)
    write_index(root, "cityscapes", {"test": records})
    return root


def taskonomy(root: Path, count: int = 1, by_domain: bool = True) -> Path:
    """On disk "domain/taskonomy/building/file" or "building/domain/file"."""
    records = []
    for k in range(count):
        records.append([f"hall/{domain}/{k}.png" for domain in TASKONOMY_DOMAINS])
        planes = (
            numbers(k, 256, (*SIZE, 3)),
            numbers(k, 18),
            numbers(k, 256, (*SIZE, 3)),
            *(numbers(k, high, dtype=np.uint16) for high in (65536, 400, 6000)),
        )
        for domain, plane in zip(TASKONOMY_DOMAINS, planes, strict=True):
            folder = root / domain / "taskonomy" / "hall" if by_domain else root / "hall" / domain
            save(folder / f"{k}.png", plane)
    write_index(root, "taskonomy", {"test": records})
    np.save(root / "semseg_prior_factor.npy", np.arange(1, 18, dtype=np.float32))
    return root


def settings(dataset: str, root: Path, **changes) -> Data:
    """Data settings for tiny pictures, all tasks, no workers."""
    row = DATASETS[dataset]
    given = {"classes": load(dataset).data.classes, "tasks": row.task_names}
    given |= {"crop": 8, "batch_size": 2, "num_workers": 0}
    return Data(dataset=dataset, root=str(root), **{**given, **changes})


def opened(data: Data, split: str = "test", protocol: str = "paper") -> Records:
    """The records of one split with the tasks of the settings."""
    row = DATASETS[data.dataset]
    return row.open(data, split, row.make_tasks(data.tasks, data, protocol), protocol)
