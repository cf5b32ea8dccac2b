"""Multiply-adds of a network's weights, measured by a forward pass: how often each weight is used in it.

A weight of a convolution is used once at every position of its output, one of a linear layer once for every
vector. Nominal figures: zeros of the input and of padding count. Left out: layers that are neither.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from .data import Forward, predict
from .isolation import untouched
from .parameters import held_parameters, unwrap
from .roles import is_length


def weight_uses(model: nn.Module, batch: Any, forward: Forward | None = None) -> dict[str, int]:
    """Parameter name -> multiply-adds of each of its weights in one forward pass, in evaluation mode;
    in training mode where that fails.

    batch: as `score` takes it; its figures are for all its samples, so give one. forward: forward(network,
    batch), None = network(batch[0]). The network is left untouched. Layers that were not run are missing.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 5))
    >>> weight_uses(net, (torch.zeros(1, 1, 5, 5), None))
    {'0.weight': 9, '2.weight': 1}
    """
    found: dict[str, int] = {}
    handles = []
    try:
        for held in held_parameters(model):
            for holder in held.holders:
                multiplies = holder.attribute == "weight" and not is_length(holder)
                count = _counter(holder.layer) if multiplies else None
                if count is not None:
                    add = partial(_add, found, held.name, count)
                    handles.append(holder.layer.register_forward_hook(add, with_kwargs=True))
        with untouched(model), torch.no_grad():
            model.eval()
            try:
                predict(unwrap(model), batch, forward)
            except Exception:  # a network that returns its losses may do so in training mode alone
                found.clear()
                model.train()
                predict(unwrap(model), batch, forward)
    finally:
        for handle in handles:
            handle.remove()
    return {held.name: found[held.name] for held in held_parameters(model) if held.name in found}


Counter = Callable[[Tensor, Tensor], int]  # (input, output) -> uses of a weight


def _counter(layer: nn.Module) -> Counter | None:
    if isinstance(layer, _ConvTransposeNd):
        return lambda given, made: given.numel() // layer.in_channels
    if isinstance(layer, _ConvNd):
        return lambda given, made: made.numel() // layer.out_channels
    if isinstance(layer, nn.Linear):
        return lambda given, made: prod(made.shape[:-1])
    return None


def _add(
    found: dict[str, int],
    name: str,
    count: Counter,
    layer: nn.Module,
    given: tuple[Any, ...],
    named: dict[str, Any],
    made: Any,
) -> None:
    taken, output = _first((given, named)), _first(made)
    if taken is not None and output is not None:
        found[name] = found.get(name, 0) + count(taken, output)


def _first(values: Any) -> Tensor | None:
    """The first tensor of what a layer takes or returns; subclasses return more behind their output."""
    return next((leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)), None)
