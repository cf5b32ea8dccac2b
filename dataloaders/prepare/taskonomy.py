"""Taskonomy from its per-building downloads: links, an index, splits by building and class weights.

Needs in SOURCE the domains rgb, segment_semantic, normal, depth_zbuffer, keypoints2d and edge_texture, as
BUILDING/DOMAIN/, DOMAIN/taskonomy/BUILDING/, DOMAIN/BUILDING/ or BUILDING_DOMAIN/DOMAIN/, with the official
file names (point_0_view_0_domain_rgb.png). Views that lack a domain are left out and counted. Splits: the
official tiny split, or --splits FILE: JSON {"train": [buildings], "val": ..., "test": ...}, or the official
CSV (a column id, columns train, val, test of 0 and 1). Class weights are the median of the class frequencies
over the frequency, counted over the training labels.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.files import read_json, replacing
from dataloaders.conventions import median_frequency, official_name
from dataloaders.files import check_whole, read_grey8
from dataloaders.prepare.plan import Plan, read
from dataloaders.writing import write_npy

INDEX_FILE = "taskonomy.json"
PRIOR_FILE = "semseg_prior_factor.npy"
SOURCE_HELP = "folder with the downloaded buildings, BUILDING/DOMAIN/point_0_view_0_domain_rgb.png"
DOMAINS = ("rgb", "segment_semantic", "normal", "depth_zbuffer", "keypoints2d", "edge_texture")
ORDERS = (
    "{building}/{domain}",
    "{domain}/taskonomy/{building}",
    "{domain}/{building}",
    "{building}_{domain}/{domain}",
)
CLASSES = 17
TINY = {
    "train": [
        "allensville", "beechwood", "benevolence", "coffeen", "cosmos", "forkland", "hanson", "hiteman",
        "klickitat", "lakeville", "leonardo", "lindenwood", "marstons", "merom", "mifflinburg", "newfields",
        "onaga", "pinesdale", "pomaria", "ranchester", "shelbyville", "stockman", "tolstoy", "wainscott",
        "woodbine",
    ],
    "val": ["collierville", "corozal", "darden", "markleeville", "wiconisco"],
    "test": ["ihlen", "mcdade", "muleshoe", "noxapater", "uvalda"],
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One view: source file of each domain."""

    sources: tuple[Path, ...]
    building: str
    dest: Path
    copy: bool

    @property
    def record(self) -> list[str | None]:
        return [f"{self.building}/{d}/{path.name}" for d, path in zip(DOMAINS, self.sources, strict=True)]


def add_options(p: argparse.ArgumentParser) -> None:
    """Options of this data set."""
    p.add_argument(
        "--splits", type=Path, help="JSON or official CSV of buildings (default: the official tiny split)"
    )
    p.add_argument("--copy", action="store_true", help="copy the files (default: hard links where possible)")


def plan(a: argparse.Namespace) -> Plan:
    """What is to be done; every file is there."""
    splits = read_splits(a.splits) if a.splits else TINY
    names = find_buildings(a.source)
    chosen = {split: [b for b in buildings if b in names] for split, buildings in splits.items()}
    if not chosen.get("train"):
        raise ValueError(
            f"no training building is in {a.source} ({_some(names)}): name them by --splits FILE"
        )
    left = sorted(set(names) - {b for buildings in chosen.values() for b in buildings})
    if left:
        tqdm.write(f"{len(left)} buildings are in no split and left out: {_some(left)}")
    jobs, lacking = {}, 0
    for split, buildings in chosen.items():
        views = [view for b in buildings for view in find_views(a.source, b)]
        jobs[split] = [Job(view, b, a.dest, a.copy) for b, view in views if view is not None]
        lacking += sum(view is None for _, view in views)
    if not jobs["train"]:
        raise ValueError(f"no view of the training buildings has all of {', '.join(DOMAINS)}")
    if lacking:
        tqdm.write(f"{lacking} views lack a domain and are left out")
    filled = {split: jobs[split] for split in jobs if jobs[split]}
    return Plan("taskonomy", filled, convert, partial(write_weights, a.dest))


def convert(job: Job) -> np.ndarray:
    """Link all files of a view; pixels of each id in its labels. Labels are decoded, of others it is looked
    at that they are whole."""
    for source in job.sources:
        read(check_whole, source)
    counts = count(job.sources[1])
    place(job)
    return counts


def write_weights(dest: Path, counts: dict[str, list[np.ndarray]]) -> None:
    """The weights of the classes, from the training labels."""
    write_npy(dest / PRIOR_FILE, median_frequency(np.sum(counts["train"], axis=0)[1:]))


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def read_splits(path: Path) -> dict[str, list[str]]:
    """split -> buildings from JSON or the official CSV; no building may stand in two splits."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}, the list of splits, does not exist")
    if path.suffix.lower() == ".csv":
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = list(csv.DictReader(line.replace(" ", "") for line in lines if line.strip()))
        if not rows or not {"id", "train", "val", "test"} <= set(rows[0]):
            raise ValueError(f"{path} lacks the columns id, train, val, test")
        splits = {s: [row["id"] for row in rows if row[s] == "1"] for s in ("train", "val", "test")}
    else:
        splits = read_json(path)
        if not isinstance(splits, dict) or not all(
            isinstance(names, list) and all(isinstance(b, str) for b in names) for names in splits.values()
        ):
            raise ValueError(f"{path} must map each split to its list of buildings")
    every = [b for buildings in splits.values() for b in buildings]
    twice = sorted({b for b in every if every.count(b) > 1})
    if twice:
        raise ValueError(f"{path} puts building {twice[0]} into more than one split")
    return splits


def find_buildings(source: Path) -> list[str]:
    """Names of the buildings with an rgb folder."""
    names = {path.parent.name for path in source.glob("*/rgb") if not path.parent.name.endswith("_rgb")}
    names |= {path.parent.name.removesuffix("_rgb") for path in source.glob("*_rgb/rgb")}
    names |= {path.name for pattern in ("rgb/taskonomy/*", "rgb/*") for path in source.glob(pattern)}
    return sorted(name for name in names if name != "taskonomy" and name[0] != ".")


def find_views(source: Path, building: str) -> list[tuple[str, tuple[Path, ...] | None]]:
    """(building, files of all domains), or (building, None) for a view that lacks one."""
    folders = {domain: _folder(source, building, domain) for domain in DOMAINS}
    if folders["rgb"] is None:
        return []
    ending = "_domain_rgb.png"
    files = (f for f in os.listdir(folders["rgb"]) if f.endswith(ending) and f[0] != ".")
    stems = sorted(f.removesuffix(ending) for f in files)
    listing = {domain: set(os.listdir(folder)) if folder else set() for domain, folder in folders.items()}
    return [(building, _files(folders, listing, stem)) for stem in stems]


def _folder(source: Path, building: str, domain: str) -> Path | None:
    choices = (source / order.format(building=building, domain=domain) for order in ORDERS)
    return next((folder for folder in choices if folder.is_dir()), None)


def _files(folders: dict, listing: dict, stem: str) -> tuple[Path, ...] | None:
    files = []
    for domain in DOMAINS:
        names = (official_name(stem, domain), f"{stem}_domain_{domain}.png")
        name = next((n for n in names if n in listing[domain]), None)
        if name is None:
            return None
        files.append(folders[domain] / name)
    return tuple(files)


def place(job: Job) -> None:
    """Link or copy the files of a view to DOMAIN/taskonomy/BUILDING, unless they are there."""
    for domain, source in zip(DOMAINS, job.sources, strict=True):
        target = job.dest / domain / "taskonomy" / job.building / source.name
        if target.exists() and target.stat().st_size == source.stat().st_size:
            continue
        with replacing(target, durable=False) as part:
            part.unlink(missing_ok=True)  # of a writer that was killed
            _link(source, part, job.copy)


def _link(source: Path, target: Path, copy: bool) -> None:
    if not copy:
        try:
            os.link(source.resolve(), target)
            return
        except OSError:  # another disk, or a file system without links
            pass
    shutil.copyfile(source, target)


def count(label: Path) -> np.ndarray:
    """Pixels of each id 0..17 in a label file."""
    stored = read(read_grey8, label)
    counts = np.bincount(stored.ravel(), minlength=CLASSES + 1)
    if len(counts) > CLASSES + 1:
        raise ValueError(f"{label} holds id {len(counts) - 1}, but ids are 0 (void) to {CLASSES}")
    return counts
