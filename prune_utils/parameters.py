"""Every parameter of a network under the name that it has without wrappers.

DataParallel, DDP, torch.compile, FSDP, checkpoint wrappers, Fabric and `AveragedModel` put a component of
their own into names (`module.`, `_orig_mod.`, ...). Masks, scores and owners never carry it, so that what was
made with a wrapper fits the network without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from .shards import part, settle

WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)  # hold the network as `module`
# what wrappers call the network inside; the leading underscore keeps them apart from a user's own names
INSIDE = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_original_module",
)


@dataclass(frozen=True)
class Holder:
    """Where a parameter sits: `layer` uses it as its tensor `attribute`.

    form: "" for the parameter itself; of a tensor that is computed from parameters the part that this one is:
    "orig" (nn.utils.prune, spectral_norm), "v", "g" (weight_norm), "original", "original0", ... (torch's
    parametrizations).
    """

    layer: nn.Module
    attribute: str
    form: str = ""


@dataclass
class Held:
    """A parameter with all its names, the first one first, and everybody who holds it.

    One layer that is registered twice is one holder with two names; two layers that share a parameter are two
    holders, which is what a tied weight is. twin: another parameter at the same place in memory, "" = none.
    """

    parameter: nn.Parameter
    names: list[str] = field(default_factory=list)
    holders: list[Holder] = field(default_factory=list)
    twin: str = ""

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def tied(self) -> bool:
        return len({(id(holder.layer), holder.attribute, holder.form) for holder in self.holders}) > 1


def held_parameters(model: nn.Module) -> list[Held]:
    """Every parameter once, in the order of `model.named_parameters()`; those that lie in one place of memory
    (`b.weight.data = a.weight.data`) are one."""
    settle(model)
    found: dict[Any, Held] = {}
    for name, parameter, holder in _walk(model, ""):
        held = found.setdefault(place_of(parameter) or id(parameter), Held(parameter))
        if parameter is not held.parameter:
            held.twin = name
        if name not in held.names:
            held.names.append(name)
        if holder not in held.holders:
            held.holders.append(holder)
    return list(found.values())


def place_of(tensor: Tensor) -> tuple[Any, ...] | None:
    """Where the elements of a tensor lie, None where that tells nothing: two tensors at one place change
    together, whatever their shape."""
    if is_lazy(tensor):
        return None
    own = part(tensor.detach())
    if type(own) is not Tensor or own.layout != torch.strided or own.is_meta or not own.numel():
        return None
    return (own.device, own.data_ptr(), own.numel(), own.dtype) if own.data_ptr() else None


def parameters_by_name(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every name of every parameter; a tied one appears under each of its names."""
    settle(model)
    return {name: parameter for name, parameter, _ in _walk(model, "")}


def find_parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of these names, in the network's order. Names with a wrapper's prefix are understood.

    Raises ValueError that names the first one that the network does not have.
    """
    there = parameters_by_name(model)
    asked = {plain_name(name, there): name for name in names}
    for plain, name in asked.items():
        if plain not in there:
            raise ValueError(f"{name!r} is no parameter of the network{_nearest(name, there)}")
    return {asked[name]: parameter for name, parameter in there.items() if name in asked}


def plain_name(name: str, there: Iterable[str]) -> str:
    """The name without the components that wrappers add, unless the network has it as it is."""
    if name in there:
        return name
    plain = ".".join(part for part in name.split(".") if part not in INSIDE)
    while plain not in there and plain.startswith("module."):
        plain = plain.removeprefix("module.")
    return plain


def inside(module: nn.Module, names: Iterable[str] = INSIDE) -> nn.Module | None:
    """The network inside a wrapper, None for a module that is none. names: what wrappers call it."""
    if isinstance(module, WRAPPERS):
        return module.module
    return next((module._modules[name] for name in names if name in module._modules), None)


def device_of(model: nn.Module) -> torch.device | None:
    """The device of all parameters; None where there are several, or no parameter."""
    devices = {parameter.device for parameter in model.parameters()}
    return devices.pop() if len(devices) == 1 else None


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DDP, torch.compile and AveragedModel, which would only distribute,
    compile or average what is asked of it here."""
    while (network := inside(model, ("_orig_mod",))) is not None:
        model = network
    return model


def plain_state_names(model: nn.Module, keys: Iterable[str]) -> dict[str, str]:
    """Key of the network's state dict -> the name without wrappers; of buffers too."""
    return {key: _plain_key(model, key) for key in keys}


def _plain_key(model: nn.Module, key: str) -> str:
    module: nn.Module | None = model
    plain = []
    for name in key.split("."):
        while module is not None and name not in module._modules:  # some wrappers leave themselves out
            module = inside(module)
        if module is None or not _wraps(module, name):
            plain.append(name)
        module = None if module is None else module._modules[name]
    return ".".join(plain)


def _wraps(module: nn.Module, name: str) -> bool:
    """Whether this is what a wrapper calls the network inside."""
    return name in INSIDE or (name == "module" and isinstance(module, WRAPPERS))


def _walk(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Parameter, Holder]]:
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield path + name, parameter, Holder(module, *_computed(module, name))
    for name, child in module._modules.items():
        if child is None:
            continue
        if name == "parametrizations" and parametrize.is_parametrized(module):
            yield from _walk_parametrized(module, child, f"{path}{name}.")
        elif _wraps(module, name):
            yield from _walk(child, path)
        else:
            yield from _walk(child, f"{path}{name}.")


def _walk_parametrized(
    layer: nn.Module, lists: nn.Module, path: str
) -> Iterator[tuple[str, nn.Parameter, Holder]]:
    for attribute, chain in lists._modules.items():
        assert chain is not None
        for name, parameter in chain._parameters.items():
            if parameter is not None:
                yield f"{path}{attribute}.{name}", parameter, Holder(layer, attribute, name)
        for name, child in chain._modules.items():
            if child is not None:  # a parametrization with parameters of its own
                yield from _walk(child, f"{path}{attribute}.{name}.")


def _computed(module: nn.Module, name: str) -> tuple[str, str]:
    """(weight, v) of the parameter `weight_v` from which a hook computes the tensor `weight`."""
    for form, partner in (("orig", None), ("v", "g"), ("g", "v")):
        base = name.removesuffix(f"_{form}")
        if (
            base == name
            or base in module._parameters
            or isinstance(getattr(type(module), base, None), property)
        ):
            continue
        if (partner is None or f"{base}_{partner}" in module._parameters) and base in module.__dict__:
            return base, form
    return name, ""


def _nearest(name: str, there: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, list(there), 1)
    return f"; the nearest is {near[0]!r}" if near else ""
