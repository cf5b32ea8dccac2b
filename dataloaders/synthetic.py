# PYTHON_ARGCOMPLETE_OK
"""Synthetic rooms in the file layout of a real data set: something to run on before the real data are there.

The rooms are ray cast (dataloaders/scenes), so segmentation, normals, depth, edges and keypoints agree with
the picture. Image k of seed s is the same whatever the number of images or workers. Scores on them say
nothing about the real data sets.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from common.choices import not_one_of
from common.command_line import Parser, described, ending
from common.files import read_json, write_json
from dataloaders.layouts import LAYOUTS
from dataloaders.scenes.render import View, render
from dataloaders.scenes.rooms import random_room
from dataloaders.writing import claimed, default_workers, run_all

SETTINGS_FILE = "synthetic.json"


@dataclass(frozen=True)
class Job:
    """One image to be made."""

    root: Path
    layout: str
    seed: int
    number: int
    split: str
    size: tuple[int, int]


def view(seed: int, number: int, size: tuple[int, int]) -> View:
    """Image `number` of a seed: a room of its own, seen at size (height, width)."""
    rng = np.random.default_rng([seed, number])
    return render(random_room(rng), size, rng)


def make(job: Job) -> list[str]:
    """Render an image, write its files, return its record."""
    layout = LAYOUTS[job.layout]
    return layout.write(job.root, layout.name(job.split, job.number), view(job.seed, job.number, job.size))


def split_numbers(images: int) -> dict[str, range]:
    """Image numbers of train, val and test: about 70, 10 and 20 %, at least one each from three images on."""
    if images < 1:
        raise ValueError(f"--images {images} is not a positive number")
    if images < 3:
        return {"train": range(1), "test": range(1, images)} if images == 2 else {"train": range(1)}
    val, test = max(round(0.1 * images), 1), max(round(0.2 * images), 1)
    train = images - val - test
    return {"train": range(train), "val": range(train, train + val), "test": range(train + val, images)}


def write(
    root: Path,
    layout: str,
    images: int,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    *,
    workers: int = 1,
    overwrite: bool = False,
) -> dict[str, list[list[str]]]:
    """Write a synthetic data set; returns its index, split -> records.

    size: (height, width), None = that of the real files. workers: processes. overwrite: whatever is there.
    ValueError for an unknown layout, a bad number or size, or a folder that holds something else.
    """
    if layout not in LAYOUTS:
        raise ValueError(not_one_of("layout", layout, LAYOUTS))
    row, numbers = LAYOUTS[layout], split_numbers(images)
    size = size or row.size
    if min(size) < 32:
        raise ValueError(f"--size {size[0]}x{size[1]} is below 32x32")
    if seed < 0:
        raise ValueError(f"--seed {seed} is negative")
    settings = {"layout": layout, "images": images, "seed": seed, "size": list(size)}
    with claimed(root, SETTINGS_FILE, settings, overwrite, way_out=" or add --overwrite"):
        if (root / row.index_file).exists() and not overwrite:
            return read_json(root / row.index_file)  # this very set is complete
        (root / row.index_file).unlink(missing_ok=True)
        jobs = [
            Job(root, layout, seed, number, split, size) for split in numbers for number in numbers[split]
        ]
        made = run_all(make, jobs, workers, "rooms")
        records = {
            split: [r for job, r in zip(jobs, made, strict=True) if job.split == split] for split in numbers
        }
        row.finish(root, records)
        write_json(root / row.index_file, records)  # last: its presence means a complete set
    return records


def parse_size(text: str) -> tuple[int, int]:
    """'120x160' -> (120, 160), height first."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, for example 120x160")
    return int(parts[0]), int(parts[1])


def parser() -> Parser:
    p = Parser(prog="python3 -m dataloaders.synthetic", description=str(__doc__).split("\n")[0])
    p.add_argument("dest", type=Path, help="folder to write, made when missing")
    p.add_argument("--layout", required=True, choices=LAYOUTS, metavar="NAME", help="that of a data set")
    p.add_argument(
        "--images", type=int, required=True, help="images in all: 70 %% train, 10 %% val, 20 %% test"
    )
    p.add_argument("--seed", type=int, default=0, help="image k of a seed is always the same")
    size = p.add_argument("--size", type=parse_size, metavar="HEIGHTxWIDTH", help="of an image")
    described(size, unset="that of the real files")
    p.add_argument("--workers", type=int, default=default_workers(), help="processes")
    p.add_argument("--overwrite", action="store_true", help="write into a folder that holds other files")
    return p


def draw(a: argparse.Namespace) -> int:
    """Write the set and say what it holds."""
    splits = write(a.dest, a.layout, a.images, a.seed, a.size, workers=a.workers, overwrite=a.overwrite)
    sizes = [path.stat().st_size for path in a.dest.rglob("*") if path.is_file()]
    print(f"{a.layout} layout in {a.dest}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")
    for split, records in splits.items():
        print(f"  {split:<6} {len(records):>6} images")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0, or 2 after one sentence about what is wrong."""
    return ending(partial(draw, parser().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
