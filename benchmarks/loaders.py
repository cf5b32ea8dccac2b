"""Images per second that one process loads for training, at the crops of the paper.

Beside it, on the same files: bare decoding (every needed file is read, nothing else), and a plain loader that
takes the same steps in the obvious order: read all, resize all, crop, everything in float64.
Times are medians over images and rounds. Each way has its own process, and they take turns, so that a busy
machine slows all of them. Decoding has the memory settings of the loader, plain has none.

usage: python3 -m benchmarks.loaders [--dataset NAME] [--data-root DIR]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from common.command_line import Parser
from common.names import MEAN_BGR
from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.base import Records
from dataloaders.items import TrainingItems
from dataloaders.workers import prepare

from . import measure

PAPER = {
    "nyuv2": Data(dataset="nyuv2", tasks=("seg", "sn"), crop=321, val_fraction=0),
    "cityscapes": Data(dataset="cityscapes", tasks=("seg", "depth"), classes=19, crop=224, val_fraction=0),
    "taskonomy": Data(
        dataset="taskonomy",
        tasks=("seg", "sn", "depth", "keypoint", "edge"),
        classes=17,
        crop=224,
        size=256,
        val_fraction=0,
    ),
}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=sorted(PAPER), help="one data set (default: all three)")
    parser.add_argument("--data-root", help="folder of that data set (default: synthetic rooms are written)")
    parser.add_argument("--images", type=int, default=16, help="images to write and to time")
    parser.add_argument("--rounds", type=int, default=9, help="passes over them")
    args = parser.parse_args()
    if args.data_root and not args.dataset:
        parser.error("--data-root needs --dataset")
    measure.describe_machine(1)
    rows = []
    for name in [args.dataset] if args.dataset else PAPER:
        with tempfile.TemporaryDirectory() as folder:
            root = args.data_root or write(name, Path(folder), args.images)
            try:
                ours, bare, plain = milliseconds(name, str(root), args.images, args.rounds)
            except (ValueError, OSError) as error:
                raise SystemExit(f"error: {error}") from error
        rows.append([name, 1000 / ours, ours, bare, plain, ours / bare, plain / ours])
    header = ["data set", "images/s", "ours ms", "decoding ms", "plain ms", "ours / decoding", "plain / ours"]
    measure.show(header, rows)


def write(name: str, folder: Path, images: int) -> Path:
    """Synthetic rooms in the layout and at the size of the real files; more of them, as some are tests."""
    command = [sys.executable, "-m", "dataloaders.synthetic", str(folder / name), "--layout", name]
    command += ["--images", str(images * 3 // 2)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parents[1])
    return folder / name


def milliseconds(name: str, root: str, images: int, rounds: int) -> tuple[float, float, float]:
    """Median milliseconds an image: this loader, bare decoding, the plain loader."""
    data = replace(PAPER[name], root=root)
    tasks = DATASETS[name].make_tasks(data.tasks, data, "paper")
    records = DATASETS[name].open(data, "train", tasks, "paper")
    items = TrainingItems(records, data, seed=0)
    ways: list[Callable] = [
        partial(load, items),
        partial(decode, records),
        partial(plain_item, records, data),
    ]
    setups: list[Callable] = [prepare, prepare, partial(cv2.setNumThreads, 0)]
    count = min(images, len(records))
    times: list[list[float]] = [[] for _ in ways]
    pools = [ProcessPoolExecutor(1, initializer=setup) for setup in setups]
    for turn in range(rounds + 1):
        for pool, way, taken in zip(pools, ways, times, strict=True):
            found = pool.submit(timed, way, turn, count).result()
            taken.extend(found if turn else [])  # round 0 fills the page cache
    for pool in pools:
        pool.shutdown()
    ours, bare, plain = (statistics.median(taken) for taken in times)
    return ours, bare, plain


def timed(way: Callable, turn: int, count: int) -> list[float]:
    """Milliseconds of each of `count` images."""
    torch.set_num_threads(1)
    taken = []
    for place in range(count):
        begin = time.perf_counter()
        way(turn, place)
        taken.append(1000 * (time.perf_counter() - begin))
    return taken


def load(items: TrainingItems, epoch: int, place: int) -> None:
    """This project's loader."""
    if items[(epoch, place)].item is None:
        raise SystemExit(
            f"error: a sample of {items.records.root} cannot be read; look with dataloaders.check"
        )


def decode(records: Records, _epoch: int, place: int) -> list[np.ndarray]:
    """Every needed file as an array in memory: image first."""
    planes = [records.layout.image, *(records.layout.planes[name] for name in records.geometry)]
    paths = [str(records.path(plane, records.entries[place])) for plane in planes]
    return [
        np.asarray(np.load(p) if p.endswith(".npy") else cv2.imread(p, cv2.IMREAD_UNCHANGED)) for p in paths
    ]


def plain_item(records: Records, data: Data, epoch: int, place: int) -> list[torch.Tensor]:
    """The same steps in the obvious order, whole planes in float64."""
    rng = np.random.default_rng((epoch, place))
    planes = [np.atleast_3d(plane).astype(np.float64) for plane in decode(records, epoch, place)]
    if data.size:
        planes = [resize((data.size, data.size), cv2.INTER_NEAREST, plane) for plane in planes]
    image, *targets = planes
    if data.dataset == "cityscapes":
        image = image[..., ::-1] * 255
    values = [
        PLAIN_DECODERS[data.dataset, name](target) for name, target in zip(data.tasks, targets, strict=True)
    ]
    low, high = data.scale
    factor = rng.uniform(low, high)
    height, width = image.shape[:2]
    size = round(height * factor), round(width * factor)
    planes = [
        resize(size, cv2.INTER_LINEAR, image - MEAN_BGR),
        *(resize(size, cv2.INTER_NEAREST, v) for v in values),
    ]
    if rng.random() < data.hflip:
        planes = [plane[:, ::-1] for plane in planes]
    padded = [pad(plane, data.crop) for plane in planes]
    top, left = (int(rng.integers(length - data.crop + 1)) for length in padded[0].shape[:2])
    window = (slice(top, top + data.crop), slice(left, left + data.crop))
    return [torch.from_numpy(plane[window].transpose(2, 0, 1).copy()).float() for plane in padded]


def resize(size: tuple[int, int], interpolation: int, plane: np.ndarray) -> np.ndarray:
    """plane [H, W, C] at another size (rows, columns)."""
    return np.atleast_3d(cv2.resize(plane, size[::-1], interpolation=interpolation))


def pad(plane: np.ndarray, crop: int) -> np.ndarray:
    """plane [H, W, C], centred in zeros where it is smaller than the crop."""
    room = [max(0, crop - length) for length in plane.shape[:2]]
    return np.pad(plane, [(r // 2, r - r // 2) for r in room] + [(0, 0)])


def with_mask(value: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Decoded plane with its validity as the last channel."""
    return np.concatenate([value, valid], axis=2)


PLAIN_DECODERS = {
    ("nyuv2", "seg"): lambda v: with_mask(v, v != 255),
    ("nyuv2", "sn"): lambda v: with_mask(v, (v != 255).all(axis=2, keepdims=True)),
    ("cityscapes", "seg"): lambda v: with_mask(v, v != -1),
    ("cityscapes", "depth"): lambda v: with_mask(v, v > 3e-5),
    ("taskonomy", "seg"): lambda v: with_mask(np.maximum(v, 1) - 1, v >= 0),
    ("taskonomy", "sn"): lambda v: with_mask(v[..., ::-1] / 255 * 2 - 1, v[..., :1] >= 0),
    ("taskonomy", "depth"): lambda v: with_mask(np.log(1 + v) / np.log(2**16), v < 64500),
    ("taskonomy", "keypoint"): lambda v: with_mask(np.clip(v / 2**16, 0, 0.005) / 0.005 * 2 - 1, v >= 0),
    ("taskonomy", "edge"): lambda v: with_mask(np.clip(v / 2**16, 0, 0.08) / 0.08 * 2 - 1, v >= 0),
}

if __name__ == "__main__":
    main()
