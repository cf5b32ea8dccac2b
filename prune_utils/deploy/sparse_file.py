"""A saved network as a small safetensors file: kept values and packed positions.

The header's metadata holds everything a saved network holds besides tensors (training/checkpoint.py), how
each tensor is coded, and a checksum. It loads to the same network bit for bit; with 16-bit values, rounded.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.checkpoint import FORMAT as NETWORK_FORMAT

from ..positions import CODINGS, shortest
from .packages import need

FORMAT = 1
KEY = "sparse network"
PLAIN = ("name", "network", "certificate", "config", "step", "versions")


def _coded(name: str, value: Tensor, kept: Tensor | None, half: bool) -> tuple[dict, dict[str, Tensor]]:
    """(how it is coded, tensors of the file)."""
    narrow = half and kept is not None
    if narrow and float(value.abs().max()) > torch.finfo(torch.float16).max:
        raise ValueError(f"'{name}' holds values beyond 16 bits: export without --half")
    stored = value.to(torch.float16) if narrow else value
    if kept is None or bool(kept.all()):
        return {"coding": "dense", "mask": kept is not None}, {name: stored}
    if bool(value[~kept].any()):
        raise ValueError(f"'{name}' has pruned weights that are not 0: this is no pruned network")
    coding, packed = shortest(kept.flatten().numpy())
    values = stored.flatten()[kept.flatten()]
    how = {"coding": coding, "shape": list(value.shape), "mask": True}
    return how, {f"{name}.values": values, f"{name}.positions": torch.from_numpy(packed)}


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        value = tensors[name].contiguous().flatten()
        total = zlib.crc32(value.view(torch.uint8).numpy(), zlib.crc32(name.encode(), total))
    return total


def write_sparse(content: dict, path: Path, half: bool = False) -> None:
    """content: the fields of a saved network. half: kept weights in 16 bits; norms and biases keep 32.

    ValueError where safetensors is not installed or the network does not fit the format.
    """
    save = need("safetensors.torch").save
    tensors, codings, mask = {}, {}, content["mask"] or {}
    for name, value in content["state"].items():
        codings[name], stored = _coded(name, value.detach().cpu(), mask.get(name), half)
        tensors |= {key: tensor.contiguous() for key, tensor in stored.items()}
    header = {field: content[field] for field in (*PLAIN, "method") if field in content}
    header |= {"format": FORMAT, "masked": content["mask"] is not None, "half": half, "codings": codings}
    header["checksum"] = _checksum(tensors)
    Path(path).write_bytes(save(tensors, metadata={KEY: json.dumps(header)}))


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    safetensors = need("safetensors")
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file") from error
    if KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file of something else: it has no '{KEY}' in its header")
    try:
        header = json.loads(metadata[KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a damaged header") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has sparse format {header.get('format')}, this program reads {FORMAT}")
    missing = [field for field in (*PLAIN, "codings", "checksum", "masked") if field not in header]
    if missing:
        raise ValueError(f"{path} lacks the field '{missing[0]}' in its header")
    if _checksum(tensors) != header["checksum"]:
        raise ValueError(f"{path} is damaged: its checksum does not fit its tensors")
    return header, tensors


def _decoded(name: str, how: dict, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """(value, mask or None); half values widened."""
    if how["coding"] == "dense":
        stored = tensors[name]
        value = stored.float() if stored.dtype == torch.float16 else stored
        return value, torch.ones(value.shape, dtype=torch.bool) if how["mask"] else None
    values, packed = tensors[f"{name}.values"], tensors[f"{name}.positions"].numpy()
    kept = CODINGS[how["coding"]][1](packed, int(np.prod(how["shape"])))
    if int(kept.sum()) != len(values):
        raise ValueError(f"{len(values)} values for {int(kept.sum())} positions")
    mask = torch.from_numpy(kept).reshape(how["shape"])
    value = torch.zeros(how["shape"], dtype=torch.float32 if values.dtype == torch.float16 else values.dtype)
    value[mask] = values.to(value.dtype)
    return value, mask


def read_sparse(path: Path) -> dict:
    """The fields of a saved network. FileNotFoundError, or ValueError in one sentence for any other file."""
    header, tensors = _read(Path(path))
    state, mask = {}, {}
    for name, how in header["codings"].items():
        try:
            state[name], kept = _decoded(name, how, tensors)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: tensor '{name}' cannot be decoded ({error})") from error
        if kept is not None:
            mask[name] = kept
    content = {field: header[field] for field in (*PLAIN, "method") if field in header}
    return content | {"format": NETWORK_FORMAT, "state": state, "mask": mask if header["masked"] else None}
