"""Files that hold a network or a run: written whole or not at all, read without running anything of theirs.

A saved network is a dictionary of plain values and tensors:
    format       FORMAT
    name         the experiment's name, e.g. nyuv2_disparse_static_90
    network      what models.multitask.MultiTaskNet.description says: enough to build it
    state        dense state dict; a pruned weight is exactly 0
    mask         parameter name -> bool tensor, True = kept; None = dense
    certificate  what was asked and what was achieved; None = dense
    config       every setting of the run, as nested plain values
    step         iterations of training behind these weights
    versions     of Python, PyTorch and this file's format
"""

from __future__ import annotations

import pickle
import platform
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from common.files import replacing

FORMAT = 1
FIELDS = ("format", "name", "network", "state", "mask", "certificate", "config", "step", "versions")


def versions() -> dict[str, str]:
    """What made a file."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "format": str(FORMAT)}


def write_file(path: Path, content: object) -> Path:
    """Save with torch.save, whole or not at all. OSError where the disk is full or the folder read-only."""
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch reports a failed write of its zip archive so
            raise OSError(None, "the disk may be full") from error
    return Path(path)


def read_file(path: Path, device: str = "cpu") -> dict:
    """What a file made by torch.save holds, tensors and plain values only.

    FileNotFoundError for a missing file, ValueError for a damaged one or one that holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()  # torch itself does not look at the checksums
            if broken:
                raise ValueError(f"{path} is damaged (checksum of {broken})")
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds something other than tensors and plain values: not loaded") from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, LookupError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or no file of PyTorch") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a network")
    return content


def check_tensors(content: dict, source: object) -> dict[str, Tensor]:
    """A plain state dict without the prefix of a parallel wrapper; ValueError if something else is in it."""
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(
                f"{source} is neither a network of this program nor a state dict: "
                f"entry '{name}' is a {type(value).__name__}"
            )
    if not content:
        raise ValueError(f"{source} holds no tensor")
    return {name.removeprefix("module."): value for name, value in content.items()}


def is_own(content: dict) -> bool:
    """Whether a file is one of ours, and not a plain state dict."""
    return "format" in content and "state" in content


def check_fields(content: dict, path: Path) -> dict:
    """A saved network with every field, of this format; ValueError says what is wrong."""
    missing = [field for field in FIELDS if field not in content]
    if missing:
        raise ValueError(f"{path} lacks the field '{missing[0]}' of a saved network")
    if content["format"] != FORMAT:
        raise ValueError(f"{path} has format {content['format']}, this program reads {FORMAT}")
    return content


def load_state(model: torch.nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Load a state dict that fits exactly; ValueError names the first tensor that does not."""
    own = model.state_dict()
    for name, value in own.items():
        if name not in state:
            raise ValueError(f"{source} lacks tensor '{name}' with shape {tuple(value.shape)}")
        if state[name].shape != value.shape:
            raise ValueError(
                f"{source}: tensor '{name}' has shape {tuple(state[name].shape)}, "
                f"the network's is {tuple(value.shape)}"
            )
    extra = [name for name in state if name not in own]
    if extra:
        raise ValueError(
            f"{source}: tensor '{extra[0]}' is not part of this network ({len(extra)} such tensors)"
        )
    model.load_state_dict(state)
