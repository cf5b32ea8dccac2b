"""Networks of other widths: tensors of given shapes, and layers that say so of themselves.

A network from which channels were removed is its class with other shapes. `resize` makes it from a fresh one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from .copying import M, computed, copied
from .isolation import same_modes


def resize(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives parameters and buffers other shapes, in place; their values are not set.

    shapes: tensor name -> shape, of the same number of dimensions and at most as long in each.
    ValueError for a name that the network does not have, or another shape than that.
    """
    found = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, shape in shapes.items():
        if name not in found:
            raise ValueError(f"tensor {name!r} is not in this network, which shall have another shape of it")
        old = found[name].shape
        plain = len(shape) == len(old) and all(
            type(new) is int and 0 < new <= most for new, most in zip(shape, old, strict=True)
        )
        if not plain:
            raise ValueError(f"tensor {name!r} of shape {tuple(old)} cannot be cut to {tuple(shape)}")
    put(model, {name: found[name].new_empty(tuple(shape)) for name, shape in shapes.items()})


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors of other shapes in the place of parameters and buffers; their layers' sizes follow."""
    layers: dict[str, nn.Module] = {}
    for name, value in tensors.items():
        path, _, leaf = name.rpartition(".")
        layer = layers[path] = model.get_submodule(path)
        old = layer._parameters.get(leaf)
        if old is None:
            layer._buffers[leaf] = value
        else:
            layer._parameters[leaf] = nn.Parameter(value, old.requires_grad)
    for layer in layers.values():
        _measure(layer)


def _measure(layer: nn.Module) -> None:
    """The sizes that a layer says it has become those of its tensors."""
    weight = getattr(layer, "weight", None)
    if isinstance(layer, _ConvNd):
        first, second = layer.weight.shape[:2]
        if layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels:
            layer.groups = first  # every channel for itself
        if isinstance(layer, _ConvTransposeNd):
            layer.in_channels, layer.out_channels = first, second * layer.groups
        else:
            layer.in_channels, layer.out_channels = second * layer.groups, first
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase):
        kept = weight if weight is not None else layer.running_mean
        if kept is not None:
            layer.num_features = len(kept)
    elif isinstance(layer, nn.GroupNorm) and weight is not None:
        layer.num_channels = len(weight)
    elif isinstance(layer, nn.LayerNorm) and weight is not None:
        layer.normalized_shape = tuple(weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def hollow(model: M) -> M:
    """A copy on device meta: modes and shapes without values, of which nothing is copied."""
    values = [*model.buffers(), *computed(model)]
    empty: dict[int, Any] = {id(value): value.detach().to("meta") for value in values}
    for value in model.parameters():
        empty[id(value)] = nn.Parameter(value.detach().to("meta"), value.requires_grad)
    return copied(model, empty)


def all_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of every parameter and buffer."""
    return {name: tuple(value.shape) for name, value in [*model.named_parameters(), *model.named_buffers()]}


def runs(model: nn.Module, image: Tensor) -> bool:
    """Whether the network takes an image; of networks without values (on device meta) nothing is computed."""
    try:
        with same_modes(model), torch.no_grad():
            model.eval()(image)
    except RuntimeError:
        return False
    return True
