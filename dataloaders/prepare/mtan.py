"""The npy layout of MTAN (Liu et al., CVPR 2019) and its descendants, for NYUv2 and Cityscapes.

train|val/{image,label...,depth,normal}/NUMBER.npy: image RGB in [0, 1], [H, W, 3]; labels from 0, -1 =
ignored, often as floats; depth [H, W, 1], 0 or -1 = unknown. Their val is the official test set (NYUv2) or
validation set (Cityscapes), on which results are published: it becomes test. Images of NYUv2 become bytes and
lose what is finer than 1/255.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dataloaders.conventions import TO_2, TO_7, coarser
from dataloaders.files import map_grid, map_image, map_labels
from dataloaders.index import visible
from dataloaders.prepare.normals import NYU_COLOUR, NYU_SIZE, encode_normals, normals_from_depth
from dataloaders.prepare.plan import Plan, read
from dataloaders.writing import present, write_npy, write_png

SPLITS = {"train": "train", "val": "test"}  # theirs -> ours
NYU_CLASSES, VOID = 13, 255
CITY_TO_2 = (0, 0, 0, 0, 0, 1, 1)  # Cityscapes' seven groups: human and vehicle are foreground
CITY_LABELS = {19: "label_19", 7: "label_7"}  # number of classes -> folder
LOOKED_AT = 6  # images whose normals are compared with their depth
CLEAR, MARGIN = 0.6, 0.1  # mean cosine that the best convention must reach, and its lead on the next
AXES = ("right", "up", "into the scene")
Convention = tuple[tuple[int, int], ...]  # for right, up, into the scene: (channel, sign)


def is_layout(source: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (source / "train" / "image").is_dir() and (source / "train" / "depth").is_dir()


@dataclass(frozen=True)
class Files:
    """One image: the file of each plane, and where its record goes."""

    planes: dict[str, Path]
    dest: Path
    split: str

    @property
    def name(self) -> str:
        return f"{self.split}_{int(self.planes['image'].stem):04d}"


def find(source: Path, dest: Path, folders: tuple[str, ...]) -> dict[str, list[Files]]:
    """The images of every split by number. FileNotFoundError names the first plane that is missing."""
    found: dict[str, list[Files]] = {}
    for theirs, ours in SPLITS.items():
        folder = source / theirs
        if not (folder / "image").is_dir():
            raise FileNotFoundError(f"{folder / 'image'} does not exist: {source} lacks the split {theirs!r}")
        images = [p for p in visible(folder / "image") if p.suffix.lower() == ".npy" and p.stem.isdigit()]
        if not images:
            raise FileNotFoundError(f"{folder / 'image'} holds no 0.npy, 1.npy, ...")
        found[ours] = []
        for image in sorted(images, key=lambda path: int(path.stem)):
            planes = {name: folder / name / image.name for name in folders}
            for path in planes.values():
                if not path.is_file():
                    raise FileNotFoundError(f"{path} does not exist, but {image} does")
            found[ours].append(Files({"image": image, **planes}, dest, ours))
    return found


def class_numbers(path: Path, classes: int) -> np.ndarray:
    """int8 [H, W], -1 = ignored."""
    stored = read(map_labels, path)
    label = np.where(stored == VOID, -1, stored)  # some descendants write it
    if (label != np.floor(label)).any() or label.min() < -1 or label.max() >= classes:
        raise ValueError(
            f"{path} holds values from {label.min():g} to {label.max():g}, not -1..{classes - 1}"
        )
    return label.astype(np.int8)


def highest_class(path: Path) -> float:
    """The highest number in a label file that is not void; -1 where all is."""
    stored = read(map_labels, path)
    return float(stored[stored != VOID].max(initial=-1))


def grid(path: Path) -> np.ndarray:
    """float32 [H, W], 0 = unknown."""
    stored = np.array(read(map_grid, path), np.float32)
    if not np.isfinite(stored).all():
        raise ValueError(f"{path} holds NaN or infinity")
    return np.maximum(stored, 0)


def colours(path: Path) -> np.ndarray:
    """float32 [H, W, 3], red first, in [0, 1]."""
    stored = np.array(read(map_image, path), np.float32)
    if not (stored.min() >= -1e-3 and stored.max() <= 1.001):
        raise ValueError(f"{path} holds values from {stored.min():g} to {stored.max():g}, not [0, 1]")
    return np.clip(stored, 0, 1)


def same_size(image: Path | str, *planes: np.ndarray) -> None:
    """ValueError unless all planes of an image have its size. image: how it is named; the first plane."""
    for plane in planes:
        if plane.shape[:2] != planes[0].shape[:2]:
            sizes = " and ".join(f"{p.shape[0]} x {p.shape[1]}" for p in (planes[0], plane))
            raise ValueError(f"{image} and its targets differ in size: {sizes}")


# -------------------------------------------------------------------------------- NYUv2
@dataclass(frozen=True)
class NyuJob:
    """One image of NYUv2, and how its normals are to be read."""

    files: Files
    convention: Convention

    @property
    def record(self) -> list[str | None]:
        name = self.files.name
        return [f"img/{name}.png", f"seg/{name}.png", f"normal_mask/{name}.png", f"depth/{name}.npy"]


def plan_nyuv2(source: Path, dest: Path) -> Plan:
    """What is to be done; the convention of the normals is found and named."""
    found = find(source, dest, ("label", "depth", "normal"))
    convention = find_convention(found["train"])
    tqdm.write("normals of SOURCE hold " + ", ".join(_axis(channel, convention) for channel in range(3)))
    tqdm.write(f"13 classes: train with --set data.classes={NYU_CLASSES}")
    jobs = {split: [NyuJob(files, convention) for files in found[split]] for split in found}
    return Plan("nyuv2", jobs, convert_nyuv2)


def _axis(channel: int, convention: Convention) -> str:
    axis = next(k for k, (theirs, _) in enumerate(convention) if theirs == channel)
    return ("" if convention[axis][1] > 0 else "minus ") + AXES[axis]


def find_convention(files: list[Files]) -> Convention:
    """Which channel, with which sign, points right, up and into the scene: what agrees best with the depth.

    ValueError if no convention agrees clearly.
    """
    chosen = [files[k] for k in np.unique(np.linspace(0, len(files) - 1, LOOKED_AT).astype(int)).tolist()]
    together, count = np.zeros((3, 3)), 0
    for one in chosen:
        given = np.array(read(map_image, one.planes["normal"]), np.float32)
        found, known = normals_of(grid(one.planes["depth"]))
        if given.shape[:2] != known.shape:
            raise ValueError(f"{one.planes['normal']} and its depth differ in size")
        length = np.linalg.norm(given, axis=-1)
        known &= length > 0.5
        unit = given[known] / length[known][:, None]
        together += found[:, known].astype(np.float64) @ unit.astype(np.float64)  # [axis, channel]
        count += int(known.sum())
    if not count:
        raise ValueError(f"{chosen[0].planes['normal']} and others hold no normal where depth is known")
    conventions = (
        tuple(zip(order, signs, strict=True))
        for order in permutations(range(3))
        for signs in product((1, -1), repeat=3)
    )
    scores = {
        convention: sum(s * together[axis, channel] for axis, (channel, s) in enumerate(convention)) / count
        for convention in conventions
    }
    best, second = sorted(scores, key=lambda convention: -scores[convention])[:2]
    if scores[best] < CLEAR or scores[best] - scores[second] < MARGIN:
        folder = chosen[0].planes["normal"].parent
        raise ValueError(
            f"the normals in {folder} agree with the depth under no order and sign "
            f"of axes (mean cosine {scores[best]:.2f}, next {scores[second]:.2f}): not read"
        )
    return best


def normals_of(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """normals_from_depth of a resized depth image of NYUv2's camera."""
    down, across = depth.shape[0] / NYU_SIZE[0], depth.shape[1] / NYU_SIZE[1]
    camera = NYU_COLOUR._replace(
        fx=NYU_COLOUR.fx * across, fy=NYU_COLOUR.fy * down, cx=NYU_COLOUR.cx * across, cy=NYU_COLOUR.cy * down
    )
    return normals_from_depth(depth, camera)


def convert_nyuv2(job: NyuJob) -> None:
    """Write the four files of an image, unless they are there."""
    files = job.files
    paths = [files.dest / str(path) for path in job.record]
    if present(*paths):
        return
    image, depth = colours(files.planes["image"]), grid(files.planes["depth"])
    label = class_numbers(files.planes["label"], NYU_CLASSES)
    stored = np.array(read(map_image, files.planes["normal"]), np.float32)
    same_size(files.planes["image"], image, label, depth, stored)
    length = np.linalg.norm(stored, axis=-1)
    if not np.isfinite(length).all() or length.max() > 1.1 * 3**0.5:
        raise ValueError(f"{files.planes['normal']} holds values that are no normals in [-1, 1]")
    known = length > 0.5
    normal = np.stack([sign * stored[..., channel] for channel, sign in job.convention])
    write_npy(paths[3], depth)
    write_png(paths[2], encode_normals(normal / np.maximum(length, 0.5), known))
    write_png(paths[1], label.astype(np.uint8))  # -1 becomes 255
    write_png(paths[0], np.round(image * 255).astype(np.uint8))


# -------------------------------------------------------------------------------- Cityscapes
@dataclass(frozen=True)
class CityJob:
    """One image of Cityscapes; classes: those of its labels."""

    files: Files
    classes: int

    @property
    def record(self) -> list[str | None]:
        split, name = self.files.split, self.files.name
        finest = f"{split}/label_19/{name}.npy" if self.classes == 19 else None
        folders = ("image", "depth", "label_2", "label_7")
        return [*(f"{split}/{folder}/{name}.npy" for folder in folders), finest]


def plan_cityscapes(source: Path, dest: Path) -> Plan:
    """What is to be done. Of several label folders the finest is taken, coarser labels follow from it."""
    folder = next((f for f in (*CITY_LABELS.values(), "label") if (source / "train" / f).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"{source / 'train'} holds no folder label_19, label_7 or label")
    found = find(source, dest, (folder, "depth"))
    classes = next((n for n, name in CITY_LABELS.items() if name == folder), 0)
    if not classes:
        highest = max(highest_class(one.planes[folder]) for one in found["train"])
        classes = 7 if highest < 7 else 19
    tqdm.write(f"labels of SOURCE ({folder}) are taken for {classes} classes")
    jobs = {
        split: [
            CityJob(Files({**f.planes, "label": f.planes[folder]}, f.dest, f.split), classes)
            for f in found[split]
        ]
        for split in found
    }
    return Plan("cityscapes", jobs, convert_cityscapes)


def convert_cityscapes(job: CityJob) -> None:
    """Write the files of an image, unless they are there."""
    files = job.files
    paths = [files.dest / path for path in job.record if path is not None]
    if present(*paths):
        return
    image, depth = colours(files.planes["image"]), grid(files.planes["depth"])
    label = class_numbers(files.planes["label"], job.classes)
    same_size(files.planes["image"], image, label, depth)
    labels = [coarser(label, TO_2), coarser(label, TO_7), label]
    if job.classes == 7:
        labels = [coarser(label, CITY_TO_2), label]
    for path, plane in zip(paths, (image, depth[..., None], *labels), strict=True):
        write_npy(path, plane)
