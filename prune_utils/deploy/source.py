"""Saved networks read for deployment: own files and sparse ones, whole or for some of the tasks."""

from __future__ import annotations

from pathlib import Path

import torch

from models.multitask import MultiTaskNet
from training.checkpoint import check_fields, is_own, load_state, read_file

from .sparse_file import read_sparse


def read_saved(path: Path) -> dict:
    """The fields of a saved network (training/checkpoint.py) from a .pth or a .safetensors file.

    FileNotFoundError, or ValueError in one sentence for a damaged or foreign file.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_sparse(path)
    content = read_file(path)
    if not is_own(content):
        raise ValueError(
            f"{path} is a plain state dict: evaluate it with --weights, only own files are exported"
        )
    return check_fields(content, path)


def build_network(content: dict, source: object = "the file") -> MultiTaskNet:
    """The network of a saved file in evaluation mode; ValueError says what differs from this program's."""
    try:
        with torch.device("meta"):
            network = MultiTaskNet(**content["network"])
    except TypeError as error:
        known = ", ".join(MultiTaskNet({"any": 1}, width=0.01).description)
        given = ", ".join(content["network"])
        raise ValueError(f"{source} describes its network by {given}; this program knows {known}") from error
    network.to_empty(device="cpu")
    load_state(network, content["state"], source)
    return network.eval()


def for_tasks(content: dict, tasks: tuple[str, ...]) -> dict:
    """The fields of the network with these tasks' heads and branches alone, every tensor as it was.

    ValueError for a task that it does not have.
    """
    channels = content["network"]["channels"]
    for task in tasks:
        if task not in channels:
            raise ValueError(f"task '{task}' is not one of {', '.join(channels)}")
    if not tasks:
        raise ValueError(f"no task is asked for; the network has {', '.join(channels)}")

    def wanted(name: str) -> bool:
        room, task = name.split(".")[:2]
        return room not in ("heads", "branches") or task in tasks

    mask = content["mask"]
    return content | {
        "network": content["network"] | {"channels": {task: channels[task] for task in tasks}},
        "state": {name: value for name, value in content["state"].items() if wanted(name)},
        "mask": None if mask is None else {name: kept for name, kept in mask.items() if wanted(name)},
    }
