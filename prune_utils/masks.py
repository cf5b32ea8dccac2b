"""Masks: which weights a network keeps, how they are put into it, counted, named and shuffled.

A mask never copies weights: a pruned weight *is* 0 in its parameter. What a mask does not name is dense.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .covering import prunable as prunable  # handed on
from .divided import divided, empty_slices
from .gathering import of_all, several
from .parameters import find_parameters, held_parameters, parameters_by_name, plain_name
from .seeds import generator
from .shards import part, part_like
from .zeroing import zero_pruned

Scores = dict[str, Tensor]
"""Parameter name -> tensor of its shape; larger = more worth keeping."""
Mask = dict[str, Tensor]
"""Parameter name -> bool tensor of its shape, True = kept. What a mask does not name is dense."""

LAYER_ENDINGS = (
    ".parametrizations.weight.original",
    ".parametrizations.weight.original1",
    ".weight_orig",
    ".weight",
)


def layer_name(parameter: str) -> str:
    """`backbone.stem.conv.weight` -> `backbone.stem.conv`; the originals of a computed weight likewise."""
    for ending in LAYER_ENDINGS:
        if parameter.endswith(ending):
            return parameter.removesuffix(ending)
    return parameter


def matching(names: Iterable[str], patterns: Iterable[str], model: nn.Module | None = None) -> frozenset[str]:
    """Names that match, or whose layer matches, one of the shell patterns (`heads.*.conv3`); a pattern must
    match something. model: whose tied weights match by each of their names, None = by the one given."""
    names = list(names)
    held = () if model is None else held_parameters(model)
    also = {name: (*each.names, *map(layer_name, each.names)) for each in held for name in each.names}
    found: set[str] = set()
    for pattern in patterns:
        hits = [
            name
            for name in names
            if any(fnmatchcase(n, pattern) for n in also.get(name, (layer_name(name), name)))
        ]
        if not hits:
            layers = ", ".join(layer_name(name) for name in names[:3])
            raise ValueError(
                f"protect pattern {pattern!r} matches no prunable layer; layers are named {layers}, ..."
            )
        found.update(hits)
    return frozenset(found)


def check_strided(name: str, gradient: Tensor) -> None:
    """Raises ValueError for a weight's gradient in sparse storage."""
    if gradient.layout != torch.strided:
        raise ValueError(f"the gradient of {name!r} is {gradient.layout}: make its layer with sparse=False")


def dense_mask(model: nn.Module, names: Iterable[str] | None = None) -> Mask:
    """A mask that keeps every one of these weights, None = every prunable weight."""
    weights = prunable(model) if names is None else find_parameters(model, names)
    return {
        name: torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
        for name, weight in weights.items()
    }


def check_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Raises ValueError that names the first layer whose mask does not fit the model.

    A mask may name any parameter of the network: what is considered was decided when it was made.
    """
    weights = parameters_by_name(model)
    axes = divided(model)
    for name, kept in mask.items():
        weight = weights.get(plain_name(name, weights))
        if weight is None:
            raise ValueError(f"mask of {name!r} fits no prunable weight of the network")
        if kept.shape != weight.shape:
            shapes = f"{tuple(kept.shape)}, the weight {tuple(weight.shape)}"
            raise ValueError(f"mask of {name!r} has shape {shapes}")
        if kept.dtype != torch.bool:
            raise ValueError(f"mask of {name!r} is {kept.dtype}, not torch.bool")
        axis = axes.get(plain_name(name, weights))
        empty = 0 if axis is None else empty_slices(kept, axis)
        if empty:
            raise ValueError(
                f"mask of {name!r} leaves nothing of {empty} slices that are divided by their own norm, and "
                "0 / 0 is no number: make the mask by sparsify or make_mask, or at a lower ratio"
            )


@torch.no_grad()
def apply(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Zeroes the pruned weights in place. Raises ValueError when the mask does not fit."""
    check_mask(model, mask)
    weights = find_parameters(model, mask)
    for name, kept in mask.items():
        weight = part(weights[name])
        zero_pruned(weight, part_like(kept, weights[name]).to(weight.device))


def count(mask: Mapping[str, Tensor]) -> int:
    """Number of weights that are kept.

    >>> mask = {"w": torch.tensor([True, False, True])}
    >>> count(mask), size(mask)
    (2, 3)
    """
    return sum(int(kept.count_nonzero()) for kept in mask.values())


def size(mask: Mapping[str, Tensor]) -> int:
    """Number of weights that the mask (or any dict of tensors) covers."""
    return sum(tensor.numel() for tensor in mask.values())


def layer_counts(mask: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """layer name -> {"kept", "total"}, as certificates say it."""
    return {
        layer_name(name): {"kept": int(kept.count_nonzero()), "total": kept.numel()}
        for name, kept in mask.items()
    }


def overall(mask: Mapping[str, Tensor]) -> dict[str, Any]:
    """kept, pruned, total (weights), density, sparsity (fractions) and ratio (percent)."""
    kept, total = count(mask), size(mask)
    return {
        "kept": kept,
        "pruned": total - kept,
        "total": total,
        "density": kept / total,
        "sparsity": 1 - kept / total,
        "ratio": 100 * (1 - kept / total),
    }


def mask_hash(mask: Mapping[str, Tensor]) -> str:
    """64 hex digits that depend on names, shapes and bits alone; equal hash = equal mask.

    >>> mask_hash({"w": torch.tensor([True, False])})[:16]
    '89637fba700fb1ff'
    """
    digest = hashlib.sha256()
    for name in sorted(mask):
        digest.update(f"{name} {tuple(mask[name].shape)}\n".encode())
        digest.update(np.packbits(mask[name].detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def shuffle_within_layers(mask: Mapping[str, Tensor], seed: int) -> Mask:
    """Permutes every layer's mask within the layer: same densities, other weights.

    The control of Frankle et al. 2021, "Pruning Neural Networks at Initialization: Why Are We Missing the
    Mark?".
    """
    shuffled = {}
    for name, kept in mask.items():
        order = torch.randperm(kept.numel(), generator=generator(seed, "shuffle", name)).to(kept.device)
        shuffled[name] = kept.reshape(-1)[order].reshape(kept.shape)
    return shuffled


def check_same_everywhere(
    mask: Mapping[str, Tensor], gather: Callable[[Tensor], Sequence[Tensor]] | None
) -> None:
    """Raises RuntimeError unless all processes hold the same mask.

    gather: a tensor of every process, None = those of torch.distributed, if there are several.
    """
    said: list[Any] = []
    if gather is None and several():
        said = of_all(mask_hash(mask))
    elif gather is not None and mask:
        digest = torch.tensor(list(bytes.fromhex(mask_hash(mask))), device=next(iter(mask.values())).device)
        said = [tuple(each.tolist()) for each in gather(digest)]
    if len(set(said)) > 1:
        raise RuntimeError(
            "the processes hold different masks: they must choose by the same batches and seed, or gather "
            "their gradients (`gather`)"
        )
