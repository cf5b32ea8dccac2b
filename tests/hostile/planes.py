"""The files that data are read from: planes of every data set, class weights, entries of the cache."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dataloaders import DATASETS
from dataloaders.plane_cache import SEAL
from dataloaders.taskonomy import PRIOR_FILE, class_weights
from dataloaders.transforms import random_crop, whole
from tests.dataloaders import small
from tests.hostile import arrays
from tests.hostile.arrays import npy_faults, other_arrays, png_faults, same_numbers, same_picture
from tests.hostile.faults import Case, Raw
from tests.hostile.formats import Format

MAKE = {"nyuv2": small.nyuv2, "cityscapes": small.cityscapes, "taskonomy": small.taskonomy}
Faults = list[Raw]


def nothing(case: Case) -> list[str]:
    """What an error must name beside the file."""
    return []


@cache
def original(dataset: str, file: str) -> bytes:
    """A file of the small data set."""
    with TemporaryDirectory() as folder:
        return (MAKE[dataset](Path(folder) / "set", 1) / file).read_bytes()


def root_of(path: Path, file: str) -> Path:
    return path.parents[len(Path(file).parts) - 1]


def write_plane(dataset: str, file: str, path: Path, content: bytes) -> None:
    root = root_of(path, file)
    if not (root / DATASETS[dataset].index_file).exists():
        MAKE[dataset](root, 1)
    path.write_bytes(content)


def read_planes(dataset: str, file: str, path: Path) -> Any:
    """What the first record is to training, cropped, and to evaluation, whole; in both protocols."""
    root, found = root_of(path, file), []
    split = "train" if dataset == "nyuv2" else "test"
    for protocol in ("paper", "metric"):
        data = small.settings(dataset, root, val_fraction=0)
        found.append(items(small.opened(data, split, protocol)))
    return found


def items(records: Any) -> list[Any]:
    sample = records[0]
    size = records.extent(sample)
    crops = [whole(size)]
    crops += [random_crop(np.random.default_rng(seed), size, 8, (0.5, 1.5), 0.5) for seed in range(3)]
    return [records.crop(0, sample, crop) for crop in crops]


def said(file: str) -> str:
    """How sentences name a file: as the index does."""
    domain, *folders = file.split("/")
    return f"{folders[1]}/{domain}/{folders[2]}" if len(folders) == 3 else file


def plane(dataset: str, task: str, file: str, faults: Any, legal: Any = None) -> Format:
    return Format(
        f"{task} of {dataset}",
        file,
        partial(original, dataset, file),
        partial(write_plane, dataset, file),
        partial(read_planes, dataset, file),
        faults=lambda: faults(original(dataset, file)),
        legal=legal or (lambda path, fault: False),
        said=said(file),
        words=nothing,
    )


def grid(values: Callable[[np.ndarray], dict[str, np.ndarray]], content: bytes) -> Faults:
    """Of an npy file. values: name -> array that is wrong in its values, of the stored one."""
    array = np.load(io.BytesIO(content))
    return npy_faults(array) + same_numbers(array) + arrays.arrays(other_arrays(array) | values(array))


def picture(wrong: dict[str, int], content: bytes) -> Faults:
    """Of a png file. wrong: name -> a value that no pixel may have."""
    pixels = arrays.pixels_of(content)
    found = png_faults(pixels) + same_picture(pixels)
    for name, bad in wrong.items():
        other = pixels.copy()
        other[0, 0] = bad
        found.append(Raw(("values",), name, arrays.png(other)))
    return found


def widths(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers, which all of these types hold exactly."""
    return {"half": array.astype("f2"), "double": array.astype("f8"), "longest": array.astype("f16")}


def grid_values(array: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers that no depth is."""
    one = np.full_like(array, 1)
    one.flat[0] = -2.5
    none = arrays.numbers_that_are_none(array)
    return none | widths(array) | {"one negative": one, "all negative": np.full_like(array, -7)}


def image_values(array: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers that no colour within 0 and 1 is."""
    none = arrays.numbers_that_are_none(array)
    return none | {
        "bytes": np.uint8(255 * array),
        "up to 255": 255 * array,
        "negative": -array - np.float32(0.1),
    }


def label_values(classes: int, array: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers that no class is."""
    floats = array.astype(np.float64)
    one = array.copy()
    one[0, 0] = classes
    return arrays.numbers_that_are_none(floats) | {
        "one class too high": one,
        "-2": np.full_like(array, -2),
        "the least": np.full_like(array, np.iinfo(array.dtype).min),
        "the largest": np.full(array.shape, 2**64 - 1, np.uint64),
        "fractions": floats + 0.5,
        "true and false": array > 0,
        "floats": floats,
        "halves": floats.astype(np.float16),
    }


def legal_depth(path: tuple, fault: str) -> bool:
    """Infinitely far is unknown."""
    return fault in ("one infinite", "all infinite")


def legal_labels(path: tuple, fault: str) -> bool:
    """A picture of two levels is one of 0 and 255: class 0, and unknown."""
    return fault == "two levels"


def legal_image(path: tuple, fault: str) -> bool:
    """Any picture is one."""
    return path[0] == "kind"


# ---------------------------------------------------------------------- class weights
def write_priors(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def read_priors(path: Path) -> Any:
    return class_weights(str(path.parent), 17)


def prior_faults() -> Faults:
    weights = np.arange(1, 18, dtype=np.float32)
    one = weights.copy()
    one[3] = -1
    wrong = arrays.numbers_that_are_none(weights) | other_arrays(weights)
    wrong |= {
        "one negative": one,
        "all 0": np.zeros_like(weights),
        "beyond 32 bits": np.full(17, 1e300),
        "true and false": weights > 3,
        "of 16 classes": weights[:16],
        "a column": weights[:, None],
        "of no class": weights[:0],
        "double": weights.astype("f8"),
        "whole numbers": weights.astype(np.int64),
    }
    return npy_faults(weights) + same_numbers(weights) + arrays.arrays(wrong)


# ------------------------------------------------------------------------------ the cache
CACHED = "seg/0.png"


def cache_entry(root: Path) -> Path:
    """The entry of a plane of the small data set, which is read once."""
    data = small.settings("nyuv2", root, val_fraction=0, cache=str(root.parent / "cache"))
    records = small.opened(data, "train", "metric")
    records[0]
    return records.read.entry(records.root / CACHED)  # type: ignore[attr-defined]


def write_entry(path: Path, content: Any) -> None:
    """content: what makes the hostile entry of a sound one; None = leave that."""
    root = path.parent / "set"
    if not root.exists():
        small.nyuv2(root, 1)
    shutil.rmtree(root.parent / "cache", ignore_errors=True)
    entry = cache_entry(root)
    if content is not None:
        entry.write_bytes(content(entry.read_bytes()))


def read_entry(path: Path) -> Any:
    """The records by way of the cache, and the entry afterwards."""
    root = path.parent / "set"
    data = small.settings("nyuv2", root, val_fraction=0, cache=str(root.parent / "cache"))
    found = items(small.opened(data, "train", "metric"))
    again = items(small.opened(data, "train", "metric"))
    return found, again, cache_entry(root).read_bytes()


def entry_faults() -> list[Case]:
    """Every field of the seal, and of the array before it, with the old checksum and with a right one."""
    found: list[Case] = []
    for place, field in enumerate(("size", "time", "checksum")):
        for bad in (0, 1, 2**31, 2**32 - 1) + (() if field == "checksum" else (-1, 2**62)):
            found.append(Raw((field,), str(bad), partial(_sealed_otherwise, place, bad)))
    array = np.zeros(small.SIZE, np.uint8)
    others = {
        "of another type": array.astype(np.float32),
        "of another size": array[1:],
        "of one axis": array.ravel(),
        "of no axis": np.array(7, np.uint8),
        "of three axes": np.zeros((*array.shape, 3), np.uint8),
        "of no pixel": array[:0],
        "of an unknown class": np.full_like(array, 200),
        **{name: other for name, other in other_arrays(array).items()},
    }
    for fault in npy_faults(array) + arrays.arrays(others):
        found.append(Raw(fault.path, fault.fault, partial(_before_seal, fault.value, False)))
        found.append(Raw((*fault.path, "sealed"), fault.fault, partial(_before_seal, fault.value, True)))
    found += [
        Raw(("seal",), "missing", lambda entry: entry[: -SEAL.size]),
        Raw(("seal",), "cut", lambda entry: entry[:-1]),
        Raw(("seal",), "twice", lambda entry: entry + entry[-SEAL.size :]),
        Raw(("file",), "empty", lambda entry: b""),
    ]
    return found


def _sealed_otherwise(place: int, bad: int, entry: bytes) -> bytes:
    fields = list(SEAL.unpack(entry[-SEAL.size :]))
    fields[place] = bad
    return entry[: -SEAL.size] + SEAL.pack(*fields)


def _before_seal(content: bytes, right: bool, entry: bytes) -> bytes:
    *stamp, checksum = SEAL.unpack(entry[-SEAL.size :])
    return content + SEAL.pack(*stamp, zlib.crc32(content) if right else checksum)


FORMATS = (
    plane("nyuv2", "image", "img/0.png", partial(picture, {}), legal_image),
    plane("nyuv2", "seg", "seg/0.png", partial(picture, {"class 40": 40, "class 254": 254}), legal_labels),
    plane("nyuv2", "sn", "normal/0.png", partial(picture, {})),
    plane("nyuv2", "depth", "depth/0.npy", partial(grid, grid_values), legal_depth),
    plane("cityscapes", "image", "image/0.npy", partial(grid, image_values)),
    plane("cityscapes", "depth", "depth/0.npy", partial(grid, grid_values)),
    plane("cityscapes", "seg", "label19/0.npy", partial(grid, partial(label_values, 19))),
    *(
        plane("taskonomy", name, f"{domain}/taskonomy/hall/0.png", partial(picture, wrong), legal)
        for name, domain, wrong, legal in (
            ("image", "rgb", {}, legal_image),
            ("seg", "segment_semantic", {"class 18": 18}, None),
            ("sn", "normal", {}, None),
            ("depth", "depth_zbuffer", {}, None),
            ("keypoint", "keypoints2d", {}, None),
        )
    ),
    Format(
        "class weights",
        PRIOR_FILE,
        lambda: arrays.saved(np.arange(1, 18, dtype=np.float32)),
        write_priors,
        read_priors,
        faults=prior_faults,
        words=nothing,
    ),
    Format("cache", CACHED, lambda: None, write_entry, read_entry, faults=entry_faults, words=nothing),
)
