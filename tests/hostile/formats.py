"""The file formats, each with a clean file, its reader, and what the reader makes of it.

A reader returns what the program would go on with, so that "as if the file were clean" can be compared.
"""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml

from agreement.reading import read_result as read_agreement
from comparison.results import read_result
from configs.load import FOLDER, as_tree, load
from dataloaders import DATASETS
from dataloaders.index import entries, read_index
from models.imagenet import backbone_state
from models.multitask import MultiTaskNet
from models.published import from_published, to_published
from prune_utils.masks import count, layer_name, mask_hash, size
from prune_utils.sparse_file import KEY
from study.runner import FIELDS, Times
from tests.hostile.faults import DEEP, Case, cases, nested
from training.checkpoint import check_tensors, read_file
from workflow.saved import build_network, read_saved, write_saved

MASKED = "heads.seg.0.conv2.weight"


def network() -> MultiTaskNet:
    torch.manual_seed(0)
    return MultiTaskNet({"seg": 2, "sn": 3}, "resnet18", width=0.02)


@dataclass(frozen=True)
class Format:
    """One file format.

    faults: the cases, None = every fault of every field of the clean content. words: what of a case an error
    must name, one of them, beside the file; [] = the file alone. slow: takes long to read. quick_to_make:
    whether its clean content is there at once, and no run has to be trained for it.
    """

    name: str
    file: str
    clean: Callable[[], Any]
    write: Callable[[Path, Any], None]
    read: Callable[[Path], Any]
    tensors: bool = False
    deep: int = DEEP
    legal: Callable[[Path, str], bool] = lambda path, fault: False  # what is no fault in this format, and why
    faults: Callable[[], Sequence[Case]] | None = None
    said: str = ""  # how sentences name the file, "" = as `file` does
    words: Callable[[Case], Sequence[str]] = lambda case: [key for key in case.path if isinstance(key, str)]

    slow: bool = False
    quick_to_make: bool = True

    def cases(self) -> Sequence[Case]:
        return self.faults() if self.faults else cases(self.clean(), self.tensors, self.deep)


def write_torch(path: Path, content: Any) -> None:
    torch.save(content, path)


def write_json(path: Path, content: Any) -> None:
    path.write_text(_text(content))


def write_yaml(path: Path, content: Any) -> None:
    path.write_text(_text(content))  # JSON, which is YAML too


def _text(content: Any) -> str:
    """JSON of a value, however deep; deep parts are written by hand."""
    deep = {"list": nested(DEEP, list), "dict": nested(DEEP, dict)}
    marked = _mark(content)
    text = json.dumps(marked)
    text = text.replace('"@list@"', "[" * DEEP + "]" * DEEP)
    return text.replace('"@dict@"', '{"a": ' * DEEP + "{}" + "}" * DEEP) if deep else text


def _mark(value: Any, level: int = 0) -> Any:
    if level > 50:
        return "@deep@"
    if isinstance(value, dict):
        parts = {key: _mark(part, level + 1) for key, part in value.items()}
        return "@dict@" if "@deep@" in parts.values() or _is_deep(parts, "@dict@") else parts
    if isinstance(value, list | tuple):
        items = [_mark(part, level + 1) for part in value]
        return "@list@" if items in (["@deep@"], ["@list@"]) else items
    return value


def _is_deep(parts: dict, mark: str) -> bool:
    return list(parts.items()) == [("a", mark)]


# ------------------------------------------------------------------------------- PyTorch's
def own_network() -> dict:
    net = network()
    state = net.state_dict()
    mask = state[MASKED].abs() > state[MASKED].abs().median()
    state[MASKED] = state[MASKED] * mask
    return {
        "format": 1,
        "name": "nyuv2_disparse_static_90",
        "method": "disparse_static",
        "network": net.description,
        "state": state,
        "mask": {MASKED: mask},
        "certificate": proof({MASKED: mask}),
        "config": {},
        "step": 7,
        "versions": {"torch": "2"},
        "origin": ["synthetic rooms"],
    }


def proof(mask: dict) -> dict:
    """What a certificate says that its mask decides."""
    kept, total = count(mask), size(mask)
    layers = {layer_name(name): {"kept": count({name: k}), "total": k.numel()} for name, k in mask.items()}
    shares = {"density": kept / total, "sparsity": 1 - kept / total, "ratio": 100 * (1 - kept / total)}
    counts = {"kept": kept, "pruned": total - kept, "total": total}
    return counts | shares | {"layers": layers, "hash": mask_hash(mask)}


def read_own(path: Path) -> Any:
    content = read_saved(path)
    return content["mask"], build_network(content, path).state_dict(), content["step"]


def own_legal(path: Path, fault: str) -> bool:
    """Where it came from is told to people and changes no result; a certificate may claim less."""
    told = path[:1] in (("versions",), ("config",), ("name",), ("method",))
    told |= path == ("origin",) and fault in ("missing", "an empty list")
    lacking = fault == "missing" and path[:1] == ("certificate",) and len(path) == 2
    return told or lacking or (path == ("certificate",) and fault == "an empty dictionary")


def published() -> dict:
    state = network().state_dict()
    return to_published(state, {MASKED: state[MASKED] > 0}, ("seg", "sn"))


def read_published(path: Path) -> Any:
    state = check_tensors(read_file(path), path)
    try:
        return from_published(state, network().state_dict(), ("seg", "sn"))
    except ValueError as error:  # as the program puts the file before it
        raise ValueError(f"{path}: {error}") from None


def torchvision_file() -> dict:
    from models.imagenet import torchvision_name

    return {torchvision_name(name): value for name, value in _backbone().items()}


def _backbone() -> dict:
    return {name: value for name, value in network().state_dict().items() if name.startswith("backbone.")}


def read_torchvision(path: Path) -> Any:
    try:
        return backbone_state(check_tensors(read_file(path), path), _backbone())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


# ---------------------------------------------------------------------------------- texts
def index(files: int) -> dict:
    records = [[f"plane{column}/{k}.png" for column in range(files)] for k in range(3)]
    return {"train": records, "test": [[f"plane{column}/9.png" for column in range(files)]]}


def index_reader(file: str, files: int) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        content = read_index(str(path.parent), file, "how to get it")
        try:
            return [entries(content, split, files, 0.5) for split in ("train", "val", "test")]
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    return read


def index_format(dataset: str, file: str, files: int) -> Format:
    return Format(
        f"index of {dataset}",
        file,
        lambda: index(files),
        write_json,
        index_reader(file, files),
        # an image without a target is half-labelled; a text is the name of a file, which is looked for later
        legal=lambda path, fault: len(path) == 3 and fault == "nothing" and path[2] > 0,
    )


def result() -> dict:
    score = {"mIoU": 20.0, "pixel_acc": 50.5}
    return {
        "name": "nyuv2_snip_90",
        "dataset": "nyuv2",
        "method": "snip",
        "protocol": "paper",
        "split": "test",
        "seed": 0,
        "images": 4,
        "config": {"prune": {"ratio": 90.0}},
        "certificate": {"density": 0.1},
        "directions": {
            "seg": {
                "mIoU": {"unit": "%", "larger_is_better": True},
                "pixel_acc": {"unit": "%", "larger_is_better": True},
            }
        },
        "metrics": {"seg": {"paper": score, "metric": score}},
        "notes": [],
    }


def result_legal(path: Path, fault: str) -> bool:
    """A file without what makes it a result is another file, passed over; figures may be any numbers; a
    measure whose direction is not told is no column; a file without certificate says so by nan."""
    other = not path or (len(path) == 1 and path[0] in ("metrics", "directions", "method"))
    unread = path[:1] in (("images",), ("config",)) and path != ("config",) and path[1:2] != ("prune",)
    unread |= path[:1] == ("notes",) and fault in ("missing", "an empty list")
    figure = path[:1] == ("metrics",) and fault in (
        *("nothing", "NaN", "a negative number", "a fraction", "a huge number"),
    )
    figure |= path[:1] == ("directions",) and fault in ("missing", "an empty dictionary") and len(path) < 4
    figure |= path == ("certificate",) and fault == "nothing"
    share = path[-1:] in (("ratio",), ("density",), ("unit",)) and fault in ("a fraction", "an empty text")
    return (other and fault in OTHER_FILE) or unread or figure or share


OTHER_FILE = (
    *("missing", "nothing", "a text", "an empty text", "escape codes", "true", "a negative number"),
    *("a fraction", "a huge number", "NaN", "infinity", "an empty list", "a list of lists"),
    "an empty dictionary",
)


def settings() -> dict:
    return yaml.safe_load((FOLDER / "nyuv2.yaml").read_text())


def read_settings(path: Path) -> Any:
    config = load("nyuv2", [str(path)])
    DATASETS["nyuv2"].make_tasks(config.data.tasks, config.data, "metric")  # looks names of tasks up
    return as_tree(config)


def settings_legal(path: Path, fault: str) -> bool:
    """A number where a text stands is a text, whose name is looked up later; weights may be any numbers."""
    value: Any = settings()
    for key in path:
        value = value[key]
    scalar = fault in ("a text", "NaN", "infinity", "escape codes", "an empty text", *NUMBERS)
    # any number in a field's range is a setting; tests of the settings hold the ranges
    number = isinstance(value, int | float) and fault in NUMBERS and fault != "a negative number"
    return isinstance(value, str) and scalar or path[:1] == ("loss_weights",) and fault in NUMBERS or number


NUMBERS = ("a negative number", "a fraction", "a huge number")


def agreement() -> dict:
    spread = {"mean": 0.5, "low": 0.25, "high": 0.75}
    matrix = [[1.0, 0.5], [0.5, 1.0]]
    return {
        "dataset": "nyuv2",
        "tasks": ["seg", "sn"],
        "seeds": [0],
        "layers": [{"name": "backbone.stem.conv", "stage": "stem", "shortcut": False}],
        "curves": [
            {
                "keep_ratio": 0.1,
                "sparsity": 0.9,
                "overall": spread,
                "chance": 0.25,
                "layers": [spread | {"chance": 0.25}],
                "pairs": {"tasks": ["seg", "sn"], "overall": matrix, "stages": {"stem": matrix}},
                "density": {"seg": {"backbone.stem.conv": 0.5}, "sn": {"backbone.stem.conv": 0.5}},
                "watershed": {"layer": "backbone.stem.conv", "confidence": 1.0, "branch_after": "stem"},
            }
        ],
    }


def agreement_legal(path: Path, fault: str) -> bool:
    """Layers, or a network, of which no task keeps a weight have no agreement; a rule may find no watershed;
    which layers a task owns is not told elsewhere."""
    none = fault == "nothing" and (path[:3] == ("curves", 0, "layers") or path[2:3] == ("watershed",))
    none |= fault == "nothing" and path[2:3] == ("pairs",) and len(path) > 5
    own = path[2:3] == ("density",) and fault in ("missing", "an empty dictionary") and len(path) > 3
    whole = fault == "nothing" and (path[2:] == ("chance",) or path[2:3] == ("overall",) and len(path) > 3)
    return own or whole or none and len(path) > 3


def times() -> list:
    row = {"seed": "0", "name": "nyuv2_snip_90", "method": "snip", "training": "full", "kind": "launch"}
    return [row | {"seconds": "12.50"}, row | {"seed": "1", "seconds": "13.00"}]


def write_times(path: Path, content: Any) -> None:
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise TypeError("a table has rows of fields")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(content)


def read_times(path: Path) -> Any:
    found = Times(path.parent)
    assert all(set(row) >= set(FIELDS) for row in found.rows)
    return found.rows, math.isfinite(found.total)


def sparse_file() -> dict:
    """The header of ours; the tensors stay as they are."""
    return json.loads(_split(sparse_bytes())[0]["__metadata__"][KEY])


@cache
def sparse_bytes() -> bytes:
    with TemporaryDirectory() as folder:
        return write_saved(own_network(), Path(folder) / "net.safetensors").read_bytes()


def _split(raw: bytes) -> tuple[dict, bytes]:
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write_sparse(path: Path, content: Any) -> None:
    header, tensors = _split(sparse_bytes())
    header["__metadata__"][KEY] = _text(content)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + tensors)


def sparse_legal(path: Path, fault: str) -> bool:
    """What a library's file may lack: the certificate beside the one of ours in `extra`.

    Whether its values were rounded is told to people.
    """
    told = path[:1] == ("half",) or path[:2] == ("extra", "origin")
    none = path == ("certificate",) and fault in ("nothing", "an empty dictionary")
    return told or none or path[:1] == ("extra",) and own_legal(path[1:], fault)


FORMATS = (
    Format("network", "net.pth", own_network, write_torch, read_own, True, 100, own_legal, slow=True),
    Format("published network", "pub.pth", published, write_torch, read_published, True, 100, slow=True),
    Format("backbone", "back.pth", torchvision_file, write_torch, read_torchvision, True, 100, slow=True),
    index_format("nyuv2", "nyu_v2_3task.json", 4),
    index_format("cityscapes", "cityscape.json", 5),
    index_format("taskonomy", "taskonomy.json", 6),
    Format("result", "nyuv2_snip_90.json", result, write_json, read_result, legal=result_legal),
    Format("agreement", "nyuv2_iou.json", agreement, write_json, read_agreement, legal=agreement_legal),
    # damaged rows are left out: they are about how long a study takes
    Format("times", "times.csv", times, write_times, read_times, legal=lambda path, fault: True),
    Format("sparse", "net.safetensors", sparse_file, write_sparse, read_own, legal=sparse_legal, slow=True),
    Format("settings", "mine.yaml", settings, write_yaml, read_settings, legal=settings_legal, slow=True),
)


def same(one: Any, two: Any) -> bool:
    """Whether two readings are equal, tensors by value and type."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, np.ndarray) and isinstance(two, np.ndarray):
        return np.array_equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (one == two or one != one and two != two)
