"""Saved networks of this program: read from own files and sparse ones, reduced to some tasks, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common.choices import not_one_of, printable
from common.names import network_file
from models.multitask import MultiTaskNet
from prune_utils.deploy.export import Exported, export
from prune_utils.masks import mask_hash
from prune_utils.report import certificate
from prune_utils.sparse_file import read_sparse, save_sparse
from prune_utils.verifying import check_certificate
from training.checkpoint import FORMAT, check_fields, is_own, load_state, read_file

from .widths import cut_network

MOST_CHANNELS = 10_000  # of a task, that a file may claim
SOME = ("method", "conflicts", "origin")  # further fields without tensors, which not every file has
PLAIN = ("name", "network", "certificate", "config", "step", "versions")  # those that every file has


def read_saved(path: Path) -> dict[str, Any]:
    """The fields of a saved network (training/checkpoint.py) from a .pth or a .safetensors file, or from a
    folder that holds the latter under the name of common.names.HUB_MODEL.

    FileNotFoundError, or ValueError in one sentence for a damaged or foreign file.
    """
    path = network_file(Path(path))
    if path.suffix == ".safetensors":
        found = read_sparse(path)
        missing = [field for field in PLAIN if field not in found.extra]
        if missing:
            raise ValueError(f"{path} lacks the field '{missing[0]}' of a network of this program in 'extra'")
        fields = {field: found.extra[field] for field in (*PLAIN, *SOME) if field in found.extra}
        content = fields | {"format": FORMAT, "state": found.state, "mask": found.mask}
    else:
        content = read_file(path)
    if not is_own(content):
        raise ValueError(
            f"{path} is a plain state dict, without field 'format': evaluate it with --weights, "
            "only own files are exported"
        )
    check_fields(content, path)
    if content["mask"] is not None:
        try:
            check_certificate(content["certificate"], content["mask"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return content


def write_saved(content: dict[str, Any], path: Path, half: bool = False) -> Path:
    """A saved network as a sparse file. half: kept weights in 16 bits."""
    return save_sparse(path, content["state"], content["mask"], half=half, extra=_plain(content))


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    return {field: content[field] for field in (*PLAIN, *SOME) if field in content}


def load_network(path: str) -> MultiTaskNet:
    """The network of a saved file in evaluation mode."""
    return build_network(read_saved(Path(path)), path)


def export_saved(
    content: dict[str, Any], tasks: tuple[str, ...] | None, format_name: str, path: Path, half: bool = False
) -> Exported:
    """Write the network of these tasks (None = all) in one of the formats of prune_utils.deploy.export."""
    if tasks is not None:
        content = for_tasks(content, tasks)
    network = build_network(content, content["name"])
    content = certified(content, network)
    return export(network, content["mask"], path, format_name, half=half, extra=_plain(content))


def certified(content: dict[str, Any], network: MultiTaskNet) -> dict[str, Any]:
    """The fields with the certificate that their mask gives now.

    Where weights were dropped or tasks left out, nothing was asked exactly of what is left: the ratio goes,
    and `part_of` says the hash of the whole network's mask.
    """
    mask, said = content["mask"], content["certificate"]
    if mask is None:
        return content
    asked = said.get("asked", {})
    asked = dict(asked) if isinstance(asked, dict) else {}
    digest = mask_hash(mask)
    if said.get("hash", digest) != digest:
        asked = {name: value for name, value in asked.items() if name not in ("ratio", "keep_ratio")}
        asked["part_of"] = said["hash"]
    owners = network.owners()
    return content | {"certificate": certificate(mask, {name: owners[name] for name in mask}, asked, network)}


def build_network(content: dict[str, Any], source: object = "the file") -> MultiTaskNet:
    """The network of a saved file in evaluation mode; ValueError says what differs from this program's."""
    described = content["network"]
    known = MultiTaskNet({"any": 1}, width=0.01).description
    if set(described) - {"shapes"} != set(known):
        given = printable(", ".join(map(str, described)))[:200]
        raise ValueError(
            f"{source}: field 'network' describes a network by {given}; this program knows {', '.join(known)}"
        )
    described = dict(described)
    shapes = described.pop("shapes", None)
    _check_description(described, source)
    try:
        with torch.device("meta"):
            network = MultiTaskNet(**described)
    except ValueError as error:
        raise ValueError(f"{source}: field 'network' fits none of this program's: {error}") from None
    if shapes is not None:
        cut_network(network, shapes, source)
    network.to_empty(device="cpu")
    load_state(network, content["state"], source)
    return network.eval()


def _check_description(described: dict[str, Any], source: object) -> None:
    """ValueError for the first part of a description that is of another type, or too large to be built."""
    channels, width, unit = (described[field] for field in ("channels", "width", "branch_after"))
    plain = isinstance(channels, dict) and all(
        isinstance(task, str) and task.isprintable() for task in channels
    )
    if not plain or not all(type(count) is int and 0 < count <= MOST_CHANNELS for count in channels.values()):
        raise ValueError(
            f"{source}: field 'network': channels are not numbers of outputs (1 to {MOST_CHANNELS}) by task"
        )
    if isinstance(width, bool) or not isinstance(width, int | float):
        raise ValueError(f"{source}: field 'network': width is a {type(width).__name__}, not a number")
    for field, text in (("backbone", described["backbone"]), ("branch_after", unit)):
        if not isinstance(text, str if field == "backbone" else str | None):
            raise ValueError(f"{source}: field 'network': {field} is a {type(text).__name__}, not a text")
        if text is not None and not text.isprintable():
            raise ValueError(f"{source}: field 'network': {field} is {printable(text)[:60]!r}")


def for_tasks(content: dict[str, Any], tasks: tuple[str, ...]) -> dict[str, Any]:
    """The fields of the network with these tasks' heads and branches alone, every tensor as it was.

    ValueError for a task that it does not have.
    """
    channels = content["network"]["channels"]
    for task in tasks:
        if task not in channels:
            raise ValueError(not_one_of("task", task, channels))
    if not tasks:
        raise ValueError(f"no task is asked for; the network has {', '.join(channels)}")

    def wanted(name: str) -> bool:
        room, task = name.split(".")[:2]
        return room not in ("heads", "branches") or task in tasks

    mask, described = content["mask"], dict(content["network"])
    if "shapes" in described:
        described["shapes"] = {name: of for name, of in described["shapes"].items() if wanted(name)}
    return content | {
        "network": described | {"channels": {task: channels[task] for task in tasks}},
        "state": {name: value for name, value in content["state"].items() if wanted(name)},
        "mask": None if mask is None else {name: kept for name, kept in mask.items() if wanted(name)},
    }
