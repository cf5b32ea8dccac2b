"""Channels that hang together: a filter, its norm, all that adds to it or reads it, through a network.

Which layers share a channel is found by the dependency graph of torch-pruning (Fang et al., "DepGraph:
Towards Any Structural Pruning", CVPR 2023) in one traced forward pass: residual sums, concatenations,
depthwise convolutions, reshapes. Here a channel becomes slices of named tensors. In a convolution of several
groups those channels are one unit that stand at the same place of every group, so that groups stay equal.
Left whole: channels of the network's outputs, those that a norm averages with others (layer and group norms:
they would all change), those that a layer of another kind holds (attention, recurrent layers, bare
parameters), a weight that is computed or that several layers share, and what torch-pruning cannot follow.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree as pytree

from .copying import copied
from .deploy.packages import need
from .masks import matching
from .parameters import held_parameters
from .resizing import all_shapes, hollow

Axis = tuple[str, int]  # tensor name, axis
UNFOLLOWED = "torch-pruning cannot follow them"


@dataclass(frozen=True)
class Channels:
    """Units that may be removed one by one, all of the same layers.

    name: of the first layer that makes them. units: for each its indices along every axis of every tensor
    that holds it, where branches read some of the channels not the same for all. width: channels of a unit in
    that first layer.
    """

    name: str
    units: tuple[dict[Axis, tuple[int, ...]], ...]
    width: int = 1

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """All that hold a channel."""
        return tuple(dict.fromkeys(axis for unit in self.units for axis in unit))


def find_channels(
    model: nn.Module,
    example: tuple[Any, ...],
    protect: Iterable[str] = (),
    call: Callable[[nn.Module, tuple[Any, ...]], Any] | None = None,
    kept: Mapping[str, str] | None = None,
) -> tuple[list[Channels], dict[str, str]]:
    """All removable channels of a network, and the layers whose channels are not -> why.

    example: arguments of one call. protect: patterns of layers that keep their channels. call: call(network,
    example) -> predictions, None = network(*example). kept: further layers that keep theirs -> why. The
    network is left untouched.
    Raises ValueError where torch-pruning is missing, or cannot trace the network.
    """
    torch_pruning = need("torch_pruning")
    traced, given = _paper(model, example, call)
    names = {module: name for name, module in traced.named_modules()}
    ends: set[Any] = set()

    def forward(network: nn.Module, arguments: Any) -> list[Tensor]:
        made = network(*arguments) if call is None else call(network, arguments)
        tensors = [value for value in pytree.tree_leaves(made) if isinstance(value, Tensor)]
        outputs = [value for value in tensors if value.grad_fn is not None]
        ends.update(value.grad_fn for value in outputs)
        return outputs

    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph()
        try:
            graph.build_dependency(traced, given, forward_fn=forward, verbose=False)
        except Exception as error:  # of any kind, from its own code and the network's
            raise ValueError(f"torch-pruning cannot follow this network: {error}") from error
    layers = dict(traced.named_modules(remove_duplicate=False))
    kept_whole = {layers[name]: reason for name, reason in (kept or {}).items()}
    protected = matching([name for name in layers if name], protect)
    kept_whole |= {layers[name]: "protected" for name in protected}
    found, whole, shapes, entangled = [], dict[str, str](), all_shapes(traced), _entangled(traced)
    for layer, group in _groups(graph):
        root, reason = names[layer], UNFOLLOWED
        if group is not None:
            reason = _reason(graph, group, names, ends, kept_whole, entangled)
        if not reason:
            channels = _channels(graph, group, root, names)
            if all(max(unit[axis]) < shapes[axis[0]][axis[1]] for unit in channels.units for axis in unit):
                found.append(channels)
                continue
            reason = UNFOLLOWED
        whole[root] = reason
    return found, whole


def _groups(graph: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Layers with the group of torch-pruning that hangs on their channels, every channel once; None where it
    fails to find what does."""
    seen: set[nn.Module] = set()
    for layer in list(graph.module2node):
        pruner = graph.get_pruner_of_module(layer)
        if layer in seen or pruner is None or not isinstance(layer, (_ConvNd, nn.Linear)):
            continue
        indices = list(range(pruner.get_out_channels(layer)))
        try:
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, indices)
        except Exception:  # of any kind, from its own code
            yield layer, None
            continue
        seen.update(each.target.module for each, _ in group if graph.is_out_channel_pruning_fn(each.handler))
        yield layer, group


def _entangled(network: nn.Module) -> dict[nn.Module, str]:
    """Layers with a weight that is not theirs alone to cut -> why."""
    found = {}
    for held in held_parameters(network):
        for holder in held.holders:
            if holder.form:
                found[holder.layer] = "a weight that is computed from another"
            elif held.tied:
                found[holder.layer] = "a weight that several layers share"
    return found


def _paper(
    model: nn.Module, example: tuple[Any, ...], call: Callable[..., Any] | None
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy to be traced: without values, where its code runs so."""
    paper = _traceable(hollow(model))
    given = pytree.tree_map_only(Tensor, lambda value: value.to("meta"), example)
    try:
        with torch.no_grad():
            paper(*given) if call is None else call(paper, given)
    except Exception:  # whatever a network does with the values of its tensors
        return _traceable(copied(model)), example
    return paper, given


def _traceable(network: nn.Module) -> nn.Module:
    """In evaluation mode, with gradients for all that can have one."""
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    return network.eval()


def _reason(
    graph: Any,
    group: Any,
    names: dict[Any, str],
    ends: set[Any],
    kept_whole: Mapping[nn.Module, str],
    entangled: Mapping[nn.Module, str],
) -> str:
    """Why the channels of a group stay, "" if they may go."""
    for dependency, _ in group:
        node, module = dependency.target, dependency.target.module
        reads = graph.is_in_channel_pruning_fn(dependency.handler) and isinstance(
            module, (_ConvNd, nn.Linear)
        )
        each = isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels
        passes = not reads or (each and module.groups > 1)
        if passes and (node.grad_fn in ends or not node.outputs):
            return "an output of the network"
        if passes and module in kept_whole:
            return kept_whole[module]
        if module in entangled:
            return entangled[module]
        if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
            return f"averaged with others by a {type(module).__name__}"
        if isinstance(module, nn.Parameter) or (module in names and _holds(module) and not _known(module)):
            return f"held by a {type(module).__name__}"
    return ""


def _holds(module: nn.Module) -> bool:
    """Whether a layer has parameters."""
    return any(True for _ in module.parameters())


def _known(module: nn.Module) -> bool:
    if isinstance(module, _ConvTransposeNd):
        return module.groups == 1
    return isinstance(module, (_ConvNd, nn.Linear, _NormBase, nn.PReLU))


def _channels(graph: Any, group: Any, root: str, names: dict[Any, str]) -> Channels:
    """The units of a group of torch-pruning, each index of whose layers knows its index in the root."""
    count = len(group[0].idxs)
    together = list(range(count))  # root index -> the first of its unit

    def first(index: int) -> int:
        while together[index] != index:
            index = together[index]
        return index

    slices: list[dict[Axis, set[int]]] = [{} for _ in range(count)]
    for item in group:
        module = item.dep.target.module
        if module not in names:
            continue
        writes = not graph.is_in_channel_pruning_fn(item.dep.handler)
        places = dict[int, int]()  # place in a group of the layer -> a root index there
        for axis, index, of in _slices(module, names[module], writes, item.idxs, item.root_idxs):
            slices[of].setdefault(axis, set()).add(index)
        size = _group_size(module, writes)
        for index, of in zip(item.idxs, item.root_idxs, strict=True) if size else ():
            other = places.setdefault(index % size, of)
            together[max(first(of), first(other))] = min(first(of), first(other))
    units: dict[int, dict[Axis, set[int]]] = {}
    for index, theirs in enumerate(slices):
        unit = units.setdefault(first(index), {})
        for axis, indices in theirs.items():
            unit.setdefault(axis, set()).update(indices)
    ordered = tuple({axis: tuple(sorted(some)) for axis, some in unit.items()} for unit in units.values())
    return Channels(root, ordered, count // len(ordered))


def _group_size(module: nn.Module, writes: bool) -> int:
    """Channels of a group of a layer that has several, else 0. (Where every channel is a group: 0.)"""
    if isinstance(module, _ConvNd) and module.groups > 1:
        channels = module.out_channels if writes else module.in_channels
        return 0 if module.groups == module.in_channels == module.out_channels else channels // module.groups
    return 0


def _slices(
    module: nn.Module, name: str, writes: bool, indices: Iterable[int], roots: Iterable[int]
) -> Iterator[tuple[Axis, int, int]]:
    """(tensor and axis, index along it, root index) of every place that holds a channel."""
    axes: list[tuple[str, int, int]]  # tensor, axis, modulus of the index (0 = as it is)
    if isinstance(module, _ConvNd):
        each = module.groups > 1 and module.groups == module.in_channels == module.out_channels
        turned = isinstance(module, _ConvTransposeNd)
        if writes or each:
            axes = [("weight", 1 if turned else 0, 0), ("bias", 0, 0)]
        else:
            axes = [("weight", 0 if turned else 1, module.in_channels // module.groups)]
    elif isinstance(module, nn.Linear):
        axes = [("weight", 0, 0), ("bias", 0, 0)] if writes else [("weight", 1, 0)]
    elif isinstance(module, nn.PReLU):
        axes = [("weight", 0, 0)] if module.num_parameters > 1 else []
    else:
        axes = [(leaf, 0, 0) for leaf in ("weight", "bias", "running_mean", "running_var")]
    prefix = f"{name}." if name else ""
    for leaf, axis, modulus in axes:
        if getattr(module, leaf, None) is not None:
            for index, root in zip(indices, roots, strict=True):
                yield (prefix + leaf, axis), index % modulus if modulus else index, root
