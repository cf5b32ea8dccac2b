"""NYUv2 from nyu_depth_v2_labeled.mat, the 40-class mapping and the official split.

Needs in SOURCE: nyu_depth_v2_labeled.mat and splits.mat (cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html)
and classMapping40.mat (of Gupta's rcnn-depth code). Writes img, seg, normal_mask (png) and depth (npy), named
by the image's number in the official split, which counts from 1. Normals are computed from the depth with the
colour camera's intrinsics unless --normals gives a folder of PNGs; they are invalid where the raw depth is
missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy import io

from dataloaders.files import read_channels
from dataloaders.prepare.normals import normals_from_depth
from dataloaders.writing import present, run_all, write_npy, write_png

INDEX_FILE = "nyu_v2_3task.json"
SOURCE_HELP = "folder with nyu_depth_v2_labeled.mat, splits.mat and classMapping40.mat"
LABELED = "nyu_depth_v2_labeled.mat"
CLASSES, MISSING = 40, 255


@dataclass(frozen=True)
class Job:
    """One image: its number counts from 1; lookup: original class -> class of the 40, 255 = none."""

    labeled: Path
    dest: Path
    number: int
    lookup: bytes
    normals: Path | None

    @property
    def record(self) -> list[str]:
        name = f"{self.number:04d}"
        return [f"img/{name}.png", f"seg/{name}.png", f"normal_mask/{name}.png", f"depth/{name}.npy"]


def add_options(p) -> None:
    """Options of this data set."""
    p.add_argument("--mapping", type=Path, help="classMapping40.mat (default: in SOURCE)")
    p.add_argument("--splits", type=Path, help="splits.mat (default: in SOURCE)")
    p.add_argument(
        "--normals", type=Path, help="folder of normals, 0001.png ... (default: computed from depth)"
    )


def prepare(a) -> dict[str, list]:
    """Write all records; returns the index."""
    folder = a.source if a.source.is_dir() else a.source.parent
    labeled = folder / LABELED if a.source.is_dir() else a.source
    splits = read_splits(_wanted(a.splits or folder / "splits.mat", "--splits"))
    lookup = read_mapping(_wanted(a.mapping or folder / "classMapping40.mat", "--mapping"))
    count = check_labeled(_wanted(labeled, "SOURCE"))
    last = max(number for numbers in splits.values() for number in numbers)
    if last > count:
        raise ValueError(f"the split names image {last}, but {labeled} holds {count} images")
    jobs = {
        split: [Job(labeled, a.dest, n, lookup.tobytes(), a.normals) for n in splits[split]]
        for split in splits
    }
    run_all(convert, [job for split in jobs.values() for job in split], a.workers, "nyuv2")
    return {split: [job.record for job in jobs[split]] for split in jobs}


def _wanted(path: Path, option: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give its place by {option}")
    return path


def read_mapping(path: Path) -> np.ndarray:
    """uint8 [895]: original class 0..894 -> class 0..39, 255 = unlabelled."""
    content = io.loadmat(str(path))
    if "mapClass" not in content:
        raise ValueError(f"{path} holds no table mapClass: it is not the 40-class mapping")
    table = content["mapClass"].ravel().astype(int)
    if table.min() < 0 or table.max() > CLASSES:
        raise ValueError(f"{path} maps to class {table.max()}, but classes are 1..{CLASSES}")
    return np.concatenate([[MISSING], np.where(table == 0, MISSING, table - 1)]).astype(np.uint8)


def read_splits(path: Path) -> dict[str, list[int]]:
    """train and test -> image numbers, from 1."""
    content = io.loadmat(str(path))
    if not {"trainNdxs", "testNdxs"} <= set(content):
        raise ValueError(f"{path} holds no trainNdxs and testNdxs: it is not the official split")
    return {split: sorted(int(n) for n in content[f"{split}Ndxs"].ravel()) for split in ("train", "test")}


def check_labeled(path: Path) -> int:
    """Number of images in the labelled set."""
    try:
        with h5py.File(path) as file:
            missing = [key for key in ("images", "depths", "labels") if key not in file]
            if missing:
                raise ValueError(f"{path} holds no {missing[0]}: it is not the labelled set")
            return file["images"].shape[0]
    except OSError as error:
        raise ValueError(f"{path} is no HDF5 file (an incomplete download?)") from error


def convert(job: Job) -> None:
    """Write the four files of an image, unless they are there."""
    image_path, seg_path, normal_path, depth_path = (job.dest / path for path in job.record)
    if present(image_path, seg_path, normal_path, depth_path):
        return
    with h5py.File(job.labeled) as file:
        place = job.number - 1
        # MATLAB stores columns first: [3, width, height] and [width, height]
        image, depth = file["images"][place].transpose(2, 1, 0), file["depths"][place].T.astype(np.float32)
        label = file["labels"][place].T
        raw = file["rawDepths"][place].T if "rawDepths" in file else depth
    lookup = np.frombuffer(job.lookup, np.uint8)
    if label.max() >= len(lookup):
        raise ValueError(
            f"image {job.number} holds class {label.max()}, the mapping ends at {len(lookup) - 1}"
        )
    normal = given_normals(job) if job.normals else encode_normals(depth, raw > 0)
    write_npy(depth_path, np.ascontiguousarray(depth))
    write_png(normal_path, normal)
    write_png(seg_path, lookup[label])
    write_png(image_path, np.ascontiguousarray(image))


def given_normals(job: Job) -> np.ndarray:
    """The user's normals of an image, RGB as stored."""
    path = job.normals / f"{job.number:04d}.png"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: --normals needs one PNG for each image, counted from 0001"
        )
    return read_channels(path)[..., ::-1]


def encode_normals(depth: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3]: (n + 1) / 2 * 255 with R = right, G = into the scene, B = up; 255 = invalid."""
    (right, up, forward), known = normals_from_depth(depth)
    encoded = np.round((np.stack([right, forward, up], -1) + 1) / 2 * 255)
    encoded = np.minimum(encoded, MISSING - 1).astype(np.uint8)  # a component of 1 must not read as invalid
    encoded[~(known & measured)] = MISSING
    return encoded
