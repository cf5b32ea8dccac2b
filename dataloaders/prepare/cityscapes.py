"""Cityscapes from leftImg8bit, gtFine and disparity, at 256 x 512; or from the npy files of MTAN.

Needs in SOURCE: leftImg8bit, gtFine, disparity (each as downloaded, or inside leftImg8bit_trainvaltest and so
on); www.cityscapes-dataset.com. The official training cities become train, the validation cities test (the
official test cities have no public labels).

Depth: the stored disparity p / 65535, as in the published 256 x 512 files, whose largest value 0.4922 is the
official maximum 32257 / 65535. An unknown disparity (p = 0) becomes 0, and loaders take values above 3e-5,
that is p >= 2. The disparity in pixels at full size is (p - 1) / 256. Images are averaged, labels and
disparities are picked from each block's middle.
Or in SOURCE: train|val/{image,depth} and label_19, label_7 or label, each NUMBER.npy, 128 x 256, as MTAN (Liu
et al., CVPR 2019) and its descendants store them; val becomes test, and label sets that they lack are null.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataloaders.conventions import TO_2, TO_7, coarser
from dataloaders.files import read_colour, read_grey8, read_grey16
from dataloaders.index import elsewhere
from dataloaders.prepare import mtan
from dataloaders.prepare.plan import Plan, read
from dataloaders.writing import present, write_npy

INDEX_FILE = "cityscape.json"
SOURCE_HELP = "folder with leftImg8bit, gtFine and disparity, or with train/image/0.npy"
SPLITS = {"train": "train", "val": "test"}  # official -> ours
SIZE = (256, 512)
FOLDERS = ("image", "depth", "label_2", "label_7", "label_19")
# official label ids that are evaluated, in the order of the 19 train ids
EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@dataclass(frozen=True)
class Job:
    """One image: its three source files, and where its record goes."""

    image: Path
    label: Path
    disparity: Path
    dest: Path
    split: str
    size: tuple[int, int]

    @property
    def record(self) -> list[str | None]:
        name = self.image.name.removesuffix("_leftImg8bit.png")
        return [f"{self.split}/{folder}/{name}.npy" for folder in FOLDERS]


def add_options(p: argparse.ArgumentParser) -> None:
    """This data set has no options of its own."""


def plan(a: argparse.Namespace) -> Plan:
    """What is to be done; every input is there."""
    if mtan.is_layout(a.source):
        return mtan.plan_cityscapes(a.source, a.dest)
    images, labels, disparities = (
        find_folder(a.source, name) for name in ("leftImg8bit", "gtFine", "disparity")
    )
    jobs = {}
    for official, split in SPLITS.items():
        found = sorted(p for p in (images / official).glob("*/*_leftImg8bit.png") if p.name[0] != ".")
        if not found:
            raise FileNotFoundError(f"{images / official} holds no CITY/*_leftImg8bit.png")
        jobs[split] = [_job(path, labels, disparities, a.dest, split) for path in found]
    return Plan("cityscapes", jobs, convert)


def find_folder(source: Path, name: str) -> Path:
    """SOURCE/name or SOURCE/name_trainvaltest/name."""
    for folder in (source / f"{name}_trainvaltest" / name, source / name):
        if folder.is_dir():
            return folder
    there = elsewhere(source, name)
    raise FileNotFoundError(f"{source} holds no folder {name}{there}: unpack {name}_trainvaltest.zip there")


def _job(image: Path, labels: Path, disparities: Path, dest: Path, split: str) -> Job:
    stem, city, official = (
        image.name.removesuffix("_leftImg8bit.png"),
        image.parent.name,
        image.parent.parent.name,
    )
    choices = [
        labels / official / city / f"{stem}_gtFine_{kind}.png" for kind in ("labelIds", "labelTrainIds")
    ]
    label = next((path for path in choices if path.is_file()), None)
    disparity = disparities / official / city / f"{stem}_disparity.png"
    if label is None:
        raise FileNotFoundError(f"{choices[0]} does not exist, nor does {choices[1].name}")
    if not disparity.is_file():
        raise FileNotFoundError(f"{disparity} does not exist")
    return Job(image, label, disparity, dest, split, SIZE)


def train_ids(label: np.ndarray, are_train_ids: bool) -> np.ndarray:
    """Official label ids, or their train ids, uint8 [H, W] -> int8 classes 0..18, -1 = ignored."""
    table = np.full(256, -1, np.int8)
    table[list(range(len(EVALUATED)) if are_train_ids else EVALUATED)] = np.arange(len(EVALUATED))
    return table[label]


def inverse_depth(stored: np.ndarray) -> np.ndarray:
    """Official disparity uint16 [H, W] -> float32 [H, W, 1] in [0, 1], 0 = unknown."""
    return (stored.astype(np.float32) / np.float32(65535))[..., None]


def _picked(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour, from the middle of what each new pixel covers."""
    return cv2.resize(plane, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def convert(job: Job) -> None:
    """Write the five files of an image, unless they are there."""
    paths = [job.dest / str(path) for path in job.record]
    if present(*paths):
        return
    image = read(read_colour, job.image)
    label, disparity = read(read_grey8, job.label), read(read_grey16, job.disparity)
    mtan.same_size(job.image, image, label, disparity)
    label = train_ids(_picked(label, job.size), job.label.stem.endswith("TrainIds"))
    image = cv2.resize(image, job.size[::-1], interpolation=cv2.INTER_AREA)[..., ::-1]
    planes = (
        np.ascontiguousarray(image, np.float32) / 255,
        inverse_depth(_picked(disparity, job.size)),
        coarser(label, TO_2),
        coarser(label, TO_7),
        label,
    )
    for path, plane in zip(paths, planes, strict=True):
        write_npy(path, plane)
