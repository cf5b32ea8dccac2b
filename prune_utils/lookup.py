"""The weights of a network by name, looked up when they are needed.

A kept reference goes stale: `load_state_dict(assign=True)`, sharding and quantisation put other tensors in a
parameter's place, wrappers put other modules around it.
"""

from __future__ import annotations

from torch import Tensor, nn

from .parameters import INSIDE, inside


def find_module(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path, seen through wrappers on the way. Raises KeyError."""
    module = model
    for part in path.split(".") if path else ():
        while part not in module._modules:
            module = _inside(module)
        found = module._modules[part]
        if found is None:
            raise KeyError(part)
        module = found
    return module


def find_weight(model: nn.Module, name: str) -> nn.Parameter:
    """The parameter of that name now, with or without the names of wrappers in it.

    Raises ValueError when the network has no such parameter any more.
    """
    path, _, leaf = name.rpartition(".")
    try:
        module = find_module(model, path)
        while leaf not in module._parameters:
            module = _inside(module)
        weight = module._parameters[leaf]
    except KeyError:
        weight = None
    if weight is None:
        raise ValueError(
            f"the network has no parameter {name!r} any more: a mask is held on the network that it was made "
            "for, before its layers are converted"
        )
    return weight


def find_values(model: nn.Module, name: str) -> Tensor | None:
    """The values of a weight for reading only, also where quantisation has packed them; None = not there."""
    try:
        return _plain(find_weight(model, name).detach())
    except ValueError:
        path, _, leaf = name.rpartition(".")
    try:
        packed = getattr(find_module(model, path), leaf, None)
    except KeyError:
        return None
    packed = packed() if callable(packed) else packed  # torch.ao's quantised layers give theirs on call
    return _plain(packed) if isinstance(packed, Tensor) else None


def _plain(values: Tensor) -> Tensor:
    """Values as an ordinary tensor: shards gathered, quantised ones as the numbers that they stand for."""
    if hasattr(values, "full_tensor"):
        values = values.full_tensor()
    ordinary = type(values) in (Tensor, nn.Parameter) and not values.is_quantized
    return values if ordinary else values.dequantize()


def _inside(module: nn.Module) -> nn.Module:
    """The network inside a wrapper. Raises KeyError for a module that is none."""
    found = inside(module, (*INSIDE, "module"))  # averages and engines of other packages say `module` too
    if found is None:
        raise KeyError(type(module).__name__)
    return found
