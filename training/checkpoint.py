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
    versions     of Python, PyTorch and this file's format; the number of threads; the kind of device
    conflicts    where training looked at tasks' gradients: {"steps", "conflicting", "pairs": {pair: steps}}
    origin       remarks on all that the weights come from, e.g. "synthetic rooms"; may be absent
"""

from __future__ import annotations

import errno
import pickle
import platform
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.choices import printable
from common.files import replacing
from common.tensors import flaw, mask_flaw

FORMAT = 1
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # how parts of a file may be, that torch reads
DAMAGE = (RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, LookupError, TypeError, AttributeError)
MOST_STEPS = 10**8  # iterations that a file may claim
KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "network": (dict,),
    "state": (dict,),
    "mask": (dict, type(None)),
    "certificate": (dict, type(None)),
    "config": (dict,),
    "step": (int,),
    "versions": (dict,),
}
FIELDS = ("format", "name", "network", "state", "mask", "certificate", "config", "step", "versions")


def arithmetic() -> dict[str, Any]:
    """What decides the order in which a CPU adds, and so last bits: its threads and vector instructions
    ("AVX2", "AVX512", ...)."""
    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}


def versions() -> dict[str, str]:
    """What made a file."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "format": str(FORMAT),
        **{name: str(value) for name, value in arithmetic().items()},
    }


def write_file(path: Path, content: object) -> Path:
    """Save with torch.save, whole or not at all. OSError where the disk is full or the folder read-only."""
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # torch reports a failed write of its zip archive so
            raise OSError(None, "the disk may be full") from error
    return Path(path)


def read_file(path: Path) -> dict[str, Any]:
    """What a file made by torch.save holds, tensors and plain values only.

    FileNotFoundError for a missing file, ValueError for a damaged one or one that holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(part.compress_type not in PACKED for part in archive.infolist()):
                    raise zipfile.BadZipFile
                broken = archive.testzip()  # torch itself does not look at the checksums
            if broken:
                raise ValueError(f"{path} is damaged (checksum of {broken})")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds something other than tensors and plain values: not loaded") from error
    except ValueError as error:
        raise (
            error if str(path) in str(error) else ValueError(f"{path} is damaged or no file of PyTorch")
        ) from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a part gives that lies where no file has anything
            raise
        raise ValueError(f"{path} is damaged or no file of PyTorch") from error
    except DAMAGE as error:
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
                f"entry '{printable(str(name))[:80]}' is a {type(value).__name__}"
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
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {printable(repr(content['format']))[:80]}, this program reads {FORMAT}"
        )
    for field, kinds in KINDS.items():
        value = content[field]
        if not isinstance(value, kinds) or isinstance(value, bool):
            wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{path}: field '{field}' is a {type(value).__name__}, not a {wanted}")
    for field in ("name", "method"):
        text = content.get(field, "unknown")  # earlier versions did not tell the method
        plain = isinstance(text, str) and text.isprintable() and text == Path(text).name
        if not plain or text in ("", ".."):
            raise ValueError(f"{path}: field '{field}' is {printable(repr(text))[:80]}, no name")
    check_origin(content, path)
    if not 0 <= content["step"] <= MOST_STEPS:
        raise ValueError(f"{path}: field 'step' is {content['step']}, not within 0 and {MOST_STEPS}")
    check_conflicts(content.get("conflicts"), path)
    if (content["mask"] is None) != (content["certificate"] is None):
        raise ValueError(f"{path} has only one of mask and certificate, which belong together")
    if content["mask"] is not None:
        check_mask(content["mask"], content["state"], path)
    return content


def check_conflicts(found: object, source: object) -> None:
    """ValueError unless it is nothing, or what training.weighing says of the tasks' gradients."""
    if found is None:
        return
    counts = found if isinstance(found, dict) else {}
    pairs = counts.get("pairs")
    steps = counts.get("steps")
    known = set(counts) == {"steps", "conflicting", "pairs"} and isinstance(pairs, dict)
    values = [counts.get("conflicting"), *(pairs.values() if isinstance(pairs, dict) else ())]
    if (
        not known
        or type(steps) is not int
        or not 0 < steps <= MOST_STEPS
        or not all(type(value) is int and 0 <= value <= steps for value in values)
        or not all(isinstance(name, str) and name.isprintable() for name in pairs or ())
    ):
        raise ValueError(f"{source}: field 'conflicts' is no count of steps with conflicting gradients")


def check_origin(content: dict, source: object) -> None:
    """ValueError unless what a file says of its origin, if anything, is a list of lines."""
    lines = content.get("origin", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) and line.isprintable() for line in lines):
        raise ValueError(f"{source}: field 'origin' is not a list of lines")


def check_mask(mask: dict[str, Tensor], state: dict[str, Tensor], source: object) -> None:
    """ValueError unless every mask is bool and fits a weight of the state, which is 0 where it prunes."""
    for name, kept in mask.items():
        said = printable(str(name))[:80]
        weight = state.get(name)
        if not isinstance(weight, Tensor):
            raise ValueError(f"{source}: mask '{said}' belongs to no weight in the file's state")
        wrong = mask_flaw(kept, weight) or flaw(weight, weight)
        if wrong:
            raise ValueError(f"{source}: mask '{said}' or its weight {wrong}")
        if weight[~kept].any():
            raise ValueError(f"{source}: tensor '{said}' is not 0 where its mask prunes")


def load_state(model: torch.nn.Module, state: dict[str, Tensor], source: object) -> None:
    """Load a state dict that fits exactly; ValueError names the first tensor that does not."""
    check_state(model, state, source)
    model.load_state_dict(state)


def check_state(model: torch.nn.Module, state: dict[str, Tensor], source: object) -> None:
    """ValueError names the first tensor of a state dict that the model cannot take over."""
    own = model.state_dict()
    for name, value in own.items():
        if name not in state:
            raise ValueError(f"{source} lacks tensor '{name}' with shape {tuple(value.shape)}")
        wrong = flaw(state[name], value)
        if wrong:
            raise ValueError(f"{source}: tensor '{name}' {wrong}")
    extra = [name for name in state if name not in own]
    if extra:
        first = printable(str(extra[0]))[:80]
        raise ValueError(
            f"{source}: tensor '{first}' is not part of this network ({len(extra)} such tensors)"
        )
