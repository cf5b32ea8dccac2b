"""NYUv2 from nyu_depth_v2_labeled.mat, the 40-class mapping and the official split; or from MTAN's npy files.

Needs in SOURCE: nyu_depth_v2_labeled.mat and splits.mat (cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html)
and classMapping40.mat (of Gupta's rcnn-depth code); for --classes 13 class13Mapping.mat, too. Writes img,
seg, normal_mask (png) and depth (npy), named by the image's number in the official split, which counts from
1.
Normals are computed from the depth with the colour camera's intrinsics unless --normals gives a folder of
PNGs; they are invalid where the raw depth is missing.
Or in SOURCE: train|val/{image,label,depth,normal}/NUMBER.npy, 288 x 384, 13 classes, as MTAN (Liu et al.,
CVPR 2019) and its descendants store them; val becomes test. The axes of their normals are found by the depth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from dataloaders.files import read_channels
from dataloaders.prepare import mtan
from dataloaders.prepare.matlab import as_numbers, dataset, load_mat, whole_numbers
from dataloaders.prepare.normals import encode_normals, normals_from_depth
from dataloaders.prepare.plan import Plan, read, wanted
from dataloaders.writing import present, write_npy, write_png

INDEX_FILE = "nyu_v2_3task.json"
SOURCE_HELP = (
    "folder with nyu_depth_v2_labeled.mat, splits.mat and classMapping40.mat, or with train/image/0.npy"
)
LABELED = "nyu_depth_v2_labeled.mat"
CLASSES, MISSING = 40, 255
ORIGINAL = 894  # classes of the labelled set


@dataclass(frozen=True)
class Job:
    """One image: its number counts from 1; lookup: original class -> class, 255 = none."""

    labeled: Path
    dest: Path
    number: int
    lookup: bytes
    normals: Path | None

    @property
    def record(self) -> list[str | None]:
        name = f"{self.number:04d}"
        return [f"img/{name}.png", f"seg/{name}.png", f"normal_mask/{name}.png", f"depth/{name}.npy"]


def add_options(p: argparse.ArgumentParser) -> None:
    """Options of this data set."""
    p.add_argument("--classes", type=int, choices=(40, 13), help="classes: 40, or the official 13")
    p.add_argument("--mapping", type=Path, help="classMapping40.mat (default: in SOURCE)")
    p.add_argument("--mapping13", type=Path, help="class13Mapping.mat (default: in SOURCE)")
    p.add_argument("--splits", type=Path, help="splits.mat (default: in SOURCE)")
    p.add_argument(
        "--normals", type=Path, help="folder of normals, 0001.png ... (default: computed from depth)"
    )


def plan(a: argparse.Namespace) -> Plan:
    """What is to be done; every input is checked."""
    if mtan.is_layout(a.source):
        _refuse_options(a)
        a.classes = mtan.NYU_CLASSES  # what the folder is marked with
        return mtan.plan_nyuv2(a.source, a.dest)
    a.classes = a.classes or CLASSES
    folder = a.source if a.source.is_dir() else a.source.parent
    labeled = folder / LABELED if a.source.is_dir() else a.source
    splits = read_splits(wanted(a.splits or folder / "splits.mat", "--splits"))
    lookup = read_mapping(wanted(a.mapping or folder / "classMapping40.mat", "--mapping"))
    if a.classes == 13:
        lookup = read_mapping13(wanted(a.mapping13 or folder / "class13Mapping.mat", "--mapping13"))[lookup]
    count = check_labeled(wanted(labeled, "SOURCE"))
    last = max(number for numbers in splits.values() for number in numbers)
    if last > count:
        raise ValueError(f"the split names image {last}, but {labeled} holds {count} images")
    jobs = {
        split: [Job(labeled, a.dest, n, lookup.tobytes(), a.normals) for n in splits[split]]
        for split in splits
    }
    if a.normals:
        for number in sorted(number for numbers in splits.values() for number in numbers):
            wanted(
                a.normals / f"{number:04d}.png", "--normals, which needs one PNG for each image from 0001 on"
            )
    return Plan("nyuv2", jobs, convert)


def _refuse_options(a: argparse.Namespace) -> None:
    """ValueError for an option that means nothing where SOURCE is in MTAN's layout."""
    layout = "SOURCE is in MTAN's layout"
    for option in ("normals", "splits", "mapping", "mapping13"):
        value = getattr(a, option)
        if value is not None:
            raise ValueError(f"--{option} {value} is for the official download, {layout}: leave it out")
    if a.classes not in (None, mtan.NYU_CLASSES):
        has = f"{layout}, which has {mtan.NYU_CLASSES} classes"
        raise ValueError(f"--classes {a.classes}: {has}: leave it out")


def read_mapping(path: Path) -> np.ndarray:
    """uint8 [895]: original class 0..894 -> class 0..39, 255 = unlabelled."""
    table = whole_numbers(path, "mapClass", "the 40-class mapping")
    if table.min() < 0 or table.max() > CLASSES:
        wrong = table.min() if table.min() < 0 else table.max()
        raise ValueError(f"{path} maps to class {wrong}, but classes are 1..{CLASSES}")
    if len(table) != ORIGINAL:
        raise ValueError(f"{path} maps {len(table)} classes, but the labelled set has {ORIGINAL}")
    return np.concatenate([[MISSING], np.where(table == 0, MISSING, table - 1)]).astype(np.uint8)


def read_mapping13(path: Path) -> np.ndarray:
    """uint8 [256]: class 0..39 of the 40 -> class 0..12 of the official 13, 255 = unlabelled."""
    what = "the 13-class mapping"
    table = load_mat(path, "classMapping13", what)
    if table.dtype.names is None or "labels13" not in table.dtype.names or table.size != 1:
        raise ValueError(f"{path} holds no classMapping13.labels13: it is not {what}")
    numbers = as_numbers(np.asarray(table["labels13"].ravel()[0]), path, "labels13")
    if len(numbers) != CLASSES or numbers.min() < 0 or numbers.max() > 13:
        raise ValueError(f"{path} does not map {CLASSES} classes to 1..13: it is not {what}")
    lookup = np.full(256, MISSING, np.uint8)
    lookup[:CLASSES] = np.where(numbers == 0, MISSING, numbers - 1)
    return lookup


def read_splits(path: Path) -> dict[str, list[int]]:
    """train and test -> image numbers, from 1, none in both."""
    splits = {}
    for split in ("train", "test"):
        numbers = whole_numbers(path, f"{split}Ndxs", "the official split")
        if numbers.min() < 1:
            raise ValueError(f"{path} names image {numbers.min()}, but images count from 1")
        if len(set(numbers.tolist())) < len(numbers):
            raise ValueError(f"{path} names an image twice in {split}Ndxs")
        splits[split] = sorted(numbers.tolist())
    shared = set(splits["train"]) & set(splits["test"])
    if shared:
        raise ValueError(f"{path} names image {min(shared)} for training and for testing")
    return splits


def check_labeled(path: Path) -> int:
    """Number of images in the labelled set."""
    try:
        with h5py.File(path) as file:
            images = dataset(file, path, "images", "u", 4)
            for name, kinds in (("depths", "f"), ("labels", "u"), ("rawDepths", "f")):
                if name == "rawDepths" and file.get(name, getlink=True) is None:
                    continue  # old copies lack it
                found = dataset(file, path, name, kinds, 3)
                if found.shape != (images.shape[0], *images.shape[2:]):
                    raise ValueError(
                        f"{path}: {name} is {list(found.shape)} beside images {list(images.shape)}"
                    )
            if images.shape[1] != 3 or images.dtype != np.uint8:
                raise ValueError(f"{path}: images is {images.dtype} {list(images.shape)}, not colour bytes")
            return images.shape[0]
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is not an HDF5 file that can be read (an incomplete download?)") from error


def convert(job: Job) -> None:
    """Write the four files of an image, unless they are there."""
    paths = [job.dest / str(path) for path in job.record]
    if present(*paths):
        return
    image_path, seg_path, normal_path, depth_path = paths
    try:
        with h5py.File(job.labeled) as file:
            place = job.number - 1
            # MATLAB stores columns first: [3, width, height] and [width, height]
            image, depth = (
                file["images"][place].transpose(2, 1, 0),
                file["depths"][place].T.astype(np.float32),
            )
            label = file["labels"][place].T
            raw = file["rawDepths"][place].T if "rawDepths" in file else depth
    except OSError as error:
        raise ValueError(f"image {job.number} of {job.labeled} cannot be read ({error})") from error
    lookup = np.frombuffer(job.lookup, np.uint8)
    if label.max() >= len(lookup):
        raise ValueError(
            f"image {job.number} holds class {label.max()}, the mapping ends at {len(lookup) - 1}"
        )
    if job.normals is not None:
        normal = read(read_channels, job.normals / f"{job.number:04d}.png")[..., ::-1]  # RGB as stored
        mtan.same_size(f"image {job.number} of {job.labeled}", image, normal)
    else:
        found, known = normals_from_depth(depth)
        normal = encode_normals(found, known & (raw > 0))
    write_npy(depth_path, np.ascontiguousarray(depth))
    write_png(normal_path, normal)
    write_png(seg_path, lookup[label])
    write_png(image_path, np.ascontiguousarray(image))
