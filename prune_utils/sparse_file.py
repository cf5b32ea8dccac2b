"""Any network as a small safetensors file: kept values, packed positions, and what the network claims to be.

The header's metadata says how every tensor is coded, its shape, type and number of kept weights, the hash of
the mask, the certificate, and whatever else the caller puts on record; a checksum covers the tensors. A file
loads to the same network bit for bit; with 16-bit values, rounded. Every claim is checked on reading.
"""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from .files import replacing
from .masks import mask_hash
from .parameters import plain_state_names, unwrap
from .positions import CODINGS, shortest
from .shards import is_shard, part, shared_out, whole, writes
from .text import as_json
from .verifying import check_certificate

FORMAT = 2
KEY = "sparse network"
UNTOLD = object()  # the hash in a file of the first format, which has none
FIELDS = ("format", "half", "masked", "codings", "checksum", "hash", "certificate", "extra")
# weights that a file of a number of bytes may claim: a byte tells of 255 at most, but for those after the
# last kept one of each tensor
CLAIMED, CLAIMED_BY_BYTE = 2**28, 256


Coding = dict[str, Any]  # of one tensor: coding, shape, dtype, mask, kept


class SparseFile(NamedTuple):
    """What a sparse file holds. mask: None = a dense network; extra: whatever save_sparse was given."""

    state: dict[str, Tensor]
    mask: dict[str, Tensor] | None
    certificate: dict[str, Any] | None
    extra: dict[str, Any]


def save_sparse(
    path: str | Path,
    model: nn.Module | Mapping[str, Tensor],
    mask: Mapping[str, Tensor] | None,
    certificate: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a network's state with its mask and certificate; whole or not at all.

    model: the network, whose wrappers (torch.compile, DataParallel, ...) leave no trace, or its state dict.
    mask: parameter name -> bool tensor, True = kept; None = dense.
    half: kept float32 weights in 16 bits; tensors that the mask does not name keep their type, so that a
        dense network has none.
    extra: plain JSON values to travel along. Of a sharded network all processes call this, the first writes.
    Raises ValueError that names the tensor that does not fit: a mask of another network, pruned weights that
        are not 0, values beyond 16 bits or of a type that no such file holds, names that would be the same in
        the file; or the field of a certificate of another mask, for half of a dense network, and for values
        that are no JSON.
    """
    if half and mask is None:
        raise ValueError("half is for the kept weights of a mask, and this network is dense: leave it out")
    state = _plain_state(unwrap(model))[0] if isinstance(model, nn.Module) else dict(model)
    _check_state(state, mask)
    _check_certificate(certificate, mask)
    spread = any(map(is_shard, state.values()))
    tensors: dict[str, Tensor] = {}
    codings: dict[str, Coding] = {}
    stored: dict[tuple[Any, ...], str] = {}  # tied weights are written once, under their first name
    for name, value in state.items():
        own = part(value.detach())  # lives as long as the state, unlike a tensor gathered from its shards
        same = (own.device, own.data_ptr(), own.shape, own.stride(), own.dtype, value.shape)
        value = whole(value.detach())
        kept = None if mask is None else mask.get(name)
        if own.numel() and kept is None and same in stored:
            codings[name] = {"coding": "tied", "to": stored[same]}
            continue
        stored[same] = name
        codings[name], parts = _coded(name, value.cpu(), None if kept is None else kept.cpu(), half)
        twice = min(parts.keys() & tensors.keys(), default=None)
        if twice is not None:
            raise ValueError(f"two tensors of the network would be '{twice}' in the file: rename one")
        tensors |= parts
    header = {
        "format": FORMAT,
        "half": half,
        "masked": mask is not None,
        "codings": codings,
        "hash": None if mask is None else mask_hash(mask),
        "certificate": None if certificate is None else dict(certificate),
        "extra": dict(extra or {}),
        "checksum": _checksum(tensors),
    }
    told = as_json(header)
    if not spread or writes():
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors, metadata={KEY: told}))
    if spread:
        torch.distributed.barrier()
    return Path(path)


def load_sparse(path: str | Path, model: nn.Module) -> SparseFile:
    """Load a sparse file into a network of the user's own class, wrapped or not; returns what the file holds.

    Raises ValueError in one sentence where the file is damaged, contradicts itself, or is of another network:
        a tensor missing, unknown, or of another shape or type. The network is untouched then.
    """
    header, tensors = _read(Path(path))
    model = unwrap(model)
    own, keys = _plain_state(model)
    for name, shape in _claims(path, header).items():  # before memory is taken for them
        if name not in own:
            raise ValueError(f"{path}: tensor '{name}' is not part of the network")
        if math.prod(shape) > own[name].numel():
            said = f"shape {str(shape)[:60]}, the network's is {tuple(own[name].shape)}"
            raise ValueError(f"{path}: tensor '{name}' has {said}")
    content = _unpacked(path, header, tensors)
    for name, value in own.items():
        if name not in content.state:
            raise ValueError(f"{path} lacks tensor '{name}' of the network, with shape {tuple(value.shape)}")
        found = content.state[name]
        if found.shape != value.shape:
            raise ValueError(
                f"{path}: tensor '{name}' has shape {tuple(found.shape)}, "
                f"the network's is {tuple(value.shape)}"
            )
        if found.dtype != value.dtype:
            raise ValueError(f"{path}: tensor '{name}' is {found.dtype}, the network's is {value.dtype}")
    unknown = [name for name in content.state if name not in own]
    if unknown:
        raise ValueError(
            f"{path}: tensor '{unknown[0]}' is not part of the network ({len(unknown)} such tensors)"
        )
    state: Any = OrderedDict(
        (keys[name], shared_out(value, own[name])) for name, value in content.state.items()
    )
    # versions of its layers' formats: some classes read a state without them as one of an older release
    state._metadata = getattr(model.state_dict(), "_metadata", {})
    model.load_state_dict(state)
    return content


def _plain_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(state by the names without wrappers, name -> key of the state dict)."""
    state = model.state_dict()
    plain = plain_state_names(model, state)
    return {plain[key]: value for key, value in state.items()}, {plain[key]: key for key in state}


def read_sparse(path: str | Path) -> SparseFile:
    """What a sparse file holds, on the CPU, every claim checked.

    Raises FileNotFoundError, or ValueError in one sentence for a damaged or foreign file, and for one that
        claims more weights than a file of its size tells of.
    """
    header, tensors = _read(Path(path))
    claimed = {name: math.prod(shape) for name, shape in _claims(path, header).items()}
    if sum(claimed.values()) > CLAIMED + CLAIMED_BY_BYTE * sum(value.nbytes for value in tensors.values()):
        most = max(claimed, key=lambda name: claimed[name])
        raise ValueError(f"{path}: by the shape of '{most}' it has more weights than its bytes can tell of")
    return _unpacked(path, header, tensors)


def _claims(path: str | Path, header: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Packed tensor -> its shape, as the header says; ValueError where that is none."""
    found = {}
    for name, how in header["codings"].items():
        if how.get("coding") in ("dense", "tied"):  # take no more memory than the file
            continue
        shape = how.get("shape")
        if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"{path}: tensor '{name}' claims shape {ascii(shape)[:60]}, which is none")
        found[name] = tuple(shape)
    return found


def _unpacked(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SparseFile:
    """What the header and the tensors of a file say, where they agree; else ValueError."""
    state: dict[str, Tensor] = {}
    mask: dict[str, Tensor] = {}
    for name, how in header["codings"].items():
        try:
            if how["coding"] == "tied":
                state[name] = state[how["to"]]
                continue
            state[name], kept = _decoded(name, how, tensors)
        except (AttributeError, KeyError, ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{path}: tensor '{name}' cannot be decoded ({ascii(str(error))[1:-1]})"
            ) from error
        if kept is not None:
            mask[name] = kept
    parts = Counter(part for name, how in header["codings"].items() for part in _parts(name, how))
    if tensors.keys() != parts.keys():
        unknown = min(tensors.keys() ^ parts.keys())
        raise ValueError(f"{path} holds tensor '{unknown}', of which its header says nothing in 'codings'")
    twice = min((part for part, times in parts.items() if times > 1), default=None)
    if twice is not None:
        raise ValueError(f"{path}: two tensors of the network are '{twice}' in the file")
    if mask and not header["masked"]:
        raise ValueError(f"{path} says that it is dense and holds a mask of '{min(mask)}'")
    found = mask if header["masked"] else None
    try:
        digest = None if found is None else mask_hash(found)
        if header["hash"] not in (UNTOLD, digest):
            raise ValueError("damaged, its mask is not the one whose hash it holds")
        _check_certificate(header["certificate"], found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return SparseFile(state, found, header["certificate"], header["extra"])


def _check_state(state: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None) -> None:
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"entry '{name}' of the state is a {type(value).__name__}, not a tensor")
        if value.layout != torch.strided or value.is_meta or not _stored(value.dtype):
            said = f"{value.dtype}, {value.layout}{', without values' * value.is_meta}"
            raise ValueError(f"'{name}' is a tensor that no safetensors file holds: {said}")
    for name, kept in (mask or {}).items():
        if name not in state:
            raise ValueError(f"the mask names '{name}', which is no tensor of this network")
        if kept.dtype != torch.bool:
            raise ValueError(f"the mask of '{name}' is {kept.dtype}, not torch.bool")
        if kept.shape != state[name].shape:
            shapes = f"{tuple(kept.shape)}, the weight {tuple(state[name].shape)}"
            raise ValueError(f"the mask of '{name}' has shape {shapes}")


@cache
def _stored(dtype: torch.dtype) -> bool:
    """Whether safetensors files hold this type."""
    try:
        save({"": torch.empty(0, dtype=dtype)})
    except Exception:  # noqa: BLE001  # neither PyTorch nor safetensors has one kind of error
        return False
    return True


def _check_certificate(certificate: Mapping[str, Any] | None, mask: Mapping[str, Tensor] | None) -> None:
    """ValueError that names the first field of a certificate which is of another mask."""
    if certificate is None:
        return
    if mask is None:
        raise ValueError("the certificate speaks of a mask, and there is none")
    check_certificate(certificate, mask)


def _coded(
    name: str, value: Tensor, kept: Tensor | None, half: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(how the tensor is coded, tensors of the file)."""
    how: dict[str, Any] = {
        "shape": list(value.shape),
        "dtype": _type_name(value.dtype),
        "mask": kept is not None,
    }
    narrow = half and kept is not None and value.dtype == torch.float32
    if narrow and value.numel() and float(value.abs().max()) > torch.finfo(torch.float16).max:
        raise ValueError(f"'{name}' holds values beyond 16 bits: save it with half=False")
    stored = value.to(torch.float16) if narrow else value
    if kept is None or bool(kept.all()):
        return how | {"coding": "dense"}, {name: stored.contiguous()}
    if bool(value[~kept].any()):
        raise ValueError(f"'{name}' has pruned weights that are not 0: this is no pruned network")
    coding, packed = shortest(kept.flatten().numpy())
    parts = {
        f"{name}.values": stored.flatten()[kept.flatten()],
        f"{name}.positions": torch.from_numpy(packed),
    }
    return how | {"coding": coding, "kept": int(kept.count_nonzero())}, parts


def _decoded(name: str, how: Coding, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """(value, mask or None); half values widened. KeyError, ValueError where header and tensors disagree."""
    stored = tensors[_parts(name, how)[0]]
    # files of the first format say neither type nor the shape of dense tensors
    widened = torch.float32 if stored.dtype == torch.float16 else stored.dtype
    dtype = getattr(torch, how["dtype"]) if "dtype" in how else widened
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"'{how['dtype']}' is no type of tensors")
    if stored.dtype not in (dtype, torch.float16 if how["mask"] and dtype == torch.float32 else dtype):
        raise ValueError(f"{_type_name(stored.dtype)} values for a tensor of {_type_name(dtype)}")
    shape = tuple(how.get("shape", stored.shape))
    if how["coding"] == "dense":
        if tuple(stored.shape) != shape:
            raise ValueError(f"shape {tuple(stored.shape)} instead of {shape}")
        return stored.to(dtype), torch.ones(shape, dtype=torch.bool) if how["mask"] else None
    packed, unpack = tensors[f"{name}.positions"], CODINGS[how["coding"]][1]
    if packed.dtype != torch.uint8:
        raise ValueError(f"positions are {_type_name(packed.dtype)}, not bytes")
    kept = unpack(packed.numpy(), math.prod(shape))
    if not int(kept.sum()) == len(stored) == how.get("kept", len(stored)):
        raise ValueError(f"{len(stored)} values for {int(kept.sum())} positions")
    mask = torch.from_numpy(kept).reshape(shape)
    value = torch.zeros(shape, dtype=dtype)
    value[mask] = stored.to(dtype)
    return value, mask


def _parts(name: str, how: Coding) -> list[str]:
    """Names of the file's tensors that hold a tensor of the network."""
    if how["coding"] == "tied":
        return []
    return [name] if how["coding"] == "dense" else [f"{name}.values", f"{name}.positions"]


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        value = tensors[name].contiguous().flatten()
        total = zlib.crc32(value.view(torch.uint8).numpy().data, zlib.crc32(name.encode(), total))
    return total


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header, of the newest format, and the tensors of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file") from error
    if KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file of something else: it has no '{KEY}' in its header")
    try:
        header = json.loads(metadata[KEY])
    except RecursionError as error:
        raise ValueError(f"{path} has a damaged header, nested too deep") from error
    except ValueError as error:
        raise ValueError(f"{path} has a damaged header, not valid JSON") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} has a damaged header: a {type(header).__name__}")
    if type(header.get("format")) is int and header["format"] == 1:
        header = _from_first(header)
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has sparse format {ascii(header.get('format'))[:40]}, this program reads {FORMAT}"
        )
    missing = [field for field in FIELDS if field not in header]
    if missing:
        raise ValueError(f"{path} lacks the field '{missing[0]}' in its header")
    for field, kinds in KINDS.items():
        if not isinstance(header[field], kinds):
            raise ValueError(f"{path}: field '{field}' of its header is a {type(header[field]).__name__}")
    if not all(isinstance(how, dict) for how in header["codings"].values()):
        raise ValueError(f"{path}: field 'codings' of its header holds something other than objects")
    if _checksum(tensors) != header["checksum"]:
        raise ValueError(f"{path} is damaged: its checksum does not fit its tensors")
    return header, tensors


KINDS: dict[str, tuple[type, ...]] = {
    "masked": (bool,),
    "codings": (dict,),
    "certificate": (dict, type(None)),
    "extra": (dict,),
}


def _from_first(header: dict[str, Any]) -> dict[str, Any]:
    """A header of the first format, where what is now in `extra` lay beside the rest."""
    new = {"format": FORMAT, "hash": UNTOLD, "certificate": None}
    extra = {field: value for field, value in header.items() if field not in FIELDS or field == "certificate"}
    own = {field: value for field, value in header.items() if field in FIELDS}
    return own | new | {"extra": extra}
