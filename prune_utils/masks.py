"""Masks: which weights a network keeps, how they are put into it, counted, named and shuffled.

A mask never copies weights: a pruned weight *is* 0 in its parameter. Biases and norms are never pruned and
never appear here; a prunable weight that a mask does not name is dense.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from .seeds import generator

Scores = dict[str, Tensor]  # parameter name -> tensor of its shape, larger = more worth keeping
Mask = dict[str, Tensor]  # parameter name -> bool tensor of its shape, True = kept

PRUNABLE = (nn.Conv2d, nn.Linear)


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of all Conv2d and Linear layers (subclasses too), by parameter name, in the model's order.

    A parameter that several layers share appears once, under its first name.
    """
    found: dict[int, tuple[str, nn.Parameter]] = {}
    for layer, module in model.named_modules():
        weight = module._parameters.get("weight") if isinstance(module, PRUNABLE) else None
        if weight is not None:
            found.setdefault(id(weight), (f"{layer}.weight" if layer else "weight", weight))
    return dict(found.values())


def layer_name(parameter: str) -> str:
    """`backbone.stem.conv.weight` -> `backbone.stem.conv`."""
    return parameter.removesuffix(".weight")


def matching(names: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """Names whose layer matches one of the shell patterns (`heads.*.conv3`); a pattern must match
    something."""
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(layer_name(name), pattern)]
        if not hits:
            layers = ", ".join(layer_name(name) for name in names[:3])
            raise ValueError(
                f"protect pattern {pattern!r} matches no prunable layer; layers are named {layers}, ..."
            )
        found.update(hits)
    return frozenset(found)


def dense_mask(model: nn.Module) -> Mask:
    """A mask that keeps every prunable weight."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}


def check_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Raises ValueError that names the first layer whose mask does not fit the model."""
    weights = prunable(model)
    for name, kept in mask.items():
        if name not in weights:
            raise ValueError(f"mask of {name!r} fits no prunable weight of the network")
        if kept.shape != weights[name].shape:
            shapes = f"{tuple(kept.shape)}, the weight {tuple(weights[name].shape)}"
            raise ValueError(f"mask of {name!r} has shape {shapes}")
        if kept.dtype != torch.bool:
            raise ValueError(f"mask of {name!r} is {kept.dtype}, not torch.bool")


@torch.no_grad()
def apply(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Zeroes the pruned weights in place. Raises ValueError when the mask does not fit."""
    check_mask(model, mask)
    weights = prunable(model)
    for name, kept in mask.items():
        # not a product: a pruned weight becomes 0 even where it was not finite
        weights[name].masked_fill_(~kept.to(weights[name].device), 0.0)


def count(mask: Mapping[str, Tensor]) -> int:
    """Number of weights that are kept."""
    return sum(int(kept.count_nonzero()) for kept in mask.values())


def size(mask: Mapping[str, Tensor]) -> int:
    """Number of weights that the mask (or any dict of tensors) covers."""
    return sum(tensor.numel() for tensor in mask.values())


def mask_hash(mask: Mapping[str, Tensor]) -> str:
    """64 hex digits that depend on names, shapes and bits alone; equal hash = equal mask."""
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

    gather: a tensor of every process, None = there is one process.
    """
    if gather is None or not mask:
        return
    digest = torch.tensor(list(bytes.fromhex(mask_hash(mask))), device=next(iter(mask.values())).device)
    if len({tuple(each.tolist()) for each in gather(digest)}) > 1:
        raise RuntimeError("the processes hold different masks, although they saw the same scores")
