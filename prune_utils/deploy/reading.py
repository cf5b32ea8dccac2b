"""Any module as a graph: its program is traced by torch.fx and told in the terms of graph.py.

Norms move into the convolutions before them, sums and rectifiers into the last write of a convolution. A
submodule that cannot be traced stays whole and runs as it is; everything that is not known does too. Weights
are copied: the network may be trained on. Leaves out training mode.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..copying import copied
from ..parameters import unwrap
from ..text import not_one_of
from .fusing import Affine, fused
from .graph import Call, Conv, Graph, Node, Ref, mapped, refs, untaken
from .steps import (
    AUGMENTED,
    MERGING,
    SAME,
    VIEWS,
    function_of,
    hooked,
    kind_of,
    not_in_place,
    order_of,
    training,
    word_of,
)
from .tracer import Tracer, conv_like, root_of

_STATISTICS, _SCALES = ("running_mean", "running_var"), ("weight", "bias")  # of a batch norm


def read_network(
    model: nn.Module,
    outputs: tuple[str, ...] | None = None,
    *,
    mask: Mapping[str, Tensor] | None = None,
    inputs: int | None = None,
) -> Graph:
    """The graph of a network as it computes in evaluation mode, in float32 on the CPU.

    outputs: only these, by the keys of the dict that the network returns; None = all. mask: weights outside
    count as 0. inputs: how many arguments the network is called with; None = those without a default.
    ValueError for a mask of another network, an output that is not there, or none at all.
    """
    twin = masked_copy(model, mask)
    names = _inputs(twin, inputs)
    root = root_of(twin, names)
    graph = _Reader(twin, root, Tracer().trace(root), names).read()
    if outputs is None:
        return graph
    if not outputs:
        raise ValueError(f"no output is asked for; the network has {', '.join(graph.outputs)}")
    for name in outputs:
        if name not in graph.outputs:
            raise ValueError(not_one_of("output", name, graph.outputs))
    return replace(graph, outputs={name: graph.outputs[name] for name in outputs}, structure=None)


def masked_copy(model: nn.Module, mask: Mapping[str, Tensor] | None) -> nn.Module:
    """A copy on the CPU, in float32 and evaluation mode, weights outside the mask 0, without gradients."""
    twin = copied(unwrap(model)).cpu().float().eval().requires_grad_(False)
    weights = dict(twin.named_parameters(remove_duplicate=False)) | dict(twin.named_buffers())
    for name, kept in (mask or {}).items():
        if name not in weights:
            raise ValueError(f"the mask names '{name}', which is no tensor of this network")
        if kept.shape != weights[name].shape:
            shapes = f"{tuple(kept.shape)}, the weight {tuple(weights[name].shape)}"
            raise ValueError(f"the mask of '{name}' has shape {shapes}")
        if kept.dtype != torch.bool:
            raise ValueError(f"the mask of '{name}' is {kept.dtype}, not torch.bool")
        weights[name].masked_fill_(~kept.to("cpu"), 0.0)
    return twin


def _inputs(model: nn.Module, count: int | None) -> list[str]:
    """Names of the arguments that the network is called with."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if count is None:
        count = sum(p.default is p.empty for p in positional) or 1
    names = [p.name for p in positional[:count]]
    return names + [f"input{number}" for number in range(len(names), count)]


class _Reader:
    """Turns a traced program into nodes, one for one. root: calls the model, holds what its code made."""

    def __init__(self, model: nn.Module, root: nn.Module, program: fx.Graph, inputs: list[str]) -> None:
        self.program = program
        self.modules = {f"net.{name}" if name else "net": m for name, m in _named(model)}
        self.parameters = {id(value): name for name, value in model.named_parameters()}
        self.root = root
        self.inputs = inputs
        self.values: dict[fx.Node, Any] = {}  # what stands for a node of the program: a Ref or a tensor
        self.now: dict[str, str] = {}  # value changed in place -> the value that later steps find instead
        self.shared: set[str] = set()  # values that may share memory with another
        self.unknown: set[str] = set()  # calls of code that is not PyTorch's: it may change what it is given
        self.made: dict[str, Ref] = {}  # tensors that the code makes and changes: name -> made anew
        self.tensors: set[str] = set()  # values that are no numbers for sure
        self.nodes: dict[str, Node] = {}

    def read(self) -> Graph:
        structure: Any = None
        placeholders = iter(self.inputs)
        for node in self.program.nodes:
            if node.op == "placeholder":
                self.values[node] = Ref(next(placeholders))
            elif node.op == "get_attr":
                self.values[node] = self._attribute(str(node.target))
            elif node.op == "output":
                structure = self._tree(node.args[0])
            elif node.target is not torch._assert:
                self.values[node] = self._step(node)
        return fused(list(self.nodes.values()), structure, tuple(self.inputs), self.shared, self.unknown)

    def _attribute(self, name: str) -> Any:
        """A tensor of the network, or one that its code makes, in 32 bits."""
        value = operator.attrgetter(name)(self.root)
        if name.startswith("net."):
            return value
        value = value.float() if value.dtype == torch.float64 else value
        if name in self.filled:
            self.made[name] = self.made.get(name) or self._add(Call(self._fresh(name), torch.clone, (value,)))
        return self.made.get(name, value)

    @cached_property
    def filled(self) -> set[str]:
        """Attributes of the root that steps change in place."""
        firsts = [(node, node.args[0]) for node in self.program.nodes if node.args]
        return {
            str(first.target)
            for node, first in firsts
            if isinstance(first, fx.Node) and first.op == "get_attr"
            if node.op in ("call_function", "call_method") and word_of(node, None)[1]
        }

    def _tree(self, tree: Any) -> Any:
        """Arguments of the program as ours."""
        if isinstance(tree, fx.Node):
            value = self.values[tree]
            return Ref(self._latest(value.name)) if isinstance(value, Ref) else value
        return mapped(self._tree, tree)

    def _latest(self, name: str) -> str:
        while name in self.now:
            name = self.now[name]
        return name

    def _fresh(self, name: str) -> str:
        return untaken(name, self.nodes, self.inputs)

    def _add(self, node: Node) -> Ref:
        self.nodes[node.name] = node
        if self._is_tensor(node):
            self.tensors.add(node.name)
        return Ref(node.name)

    def _is_tensor(self, node: Node) -> bool:
        """Whether the value is a tensor for sure."""
        if isinstance(node, Conv) or node.kind != "other" or isinstance(node.op, nn.Module | partial):
            return True
        arithmetic = node.op in vars(operator).values() and node.op is not operator.getitem
        return arithmetic and not self.tensors.isdisjoint(node.reads)

    def _step(self, node: fx.Node) -> Any:
        args, kwargs = self._tree(tuple(node.args)), self._tree(dict(node.kwargs))
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        word, in_place = word_of(node, module)
        op: Callable[..., Any] = module if module is not None else function_of(node, args)
        if word not in ("", "searchsorted") and not args and "input" in kwargs:  # whose first argument it is
            args = (kwargs.pop("input"),)
        name = self._fresh(str(node.target).removeprefix("net.") if module is not None else node.name)
        first = args[0] if args else None
        if isinstance(first, Ref) and not (module is not None and hooked(module)):
            if word in SAME and not training(word, args, kwargs, module):
                return first
            order = order_of(word, args, kwargs)
            if order is torch.preserve_format:
                return first
            if order is torch.contiguous_format and first.name not in self.shared:
                return first
            if order is not None:
                return self._add(Call(name, partial(torch.clone, memory_format=order), (first,)))
            made = self._conv(name, word, module, args, kwargs) or self._norm(name, word, op, args, kwargs)
            if made is not None:
                return self._add(made)
            if word in MERGING and first.name not in self.shared and self._is_changed(node):
                whole = partial(torch.clone, memory_format=torch.contiguous_format)
                args = (self._add(Call(self._fresh(f"{name}.whole"), whole, (first,))), *args[1:])
                self.now[first.name] = args[0].name
        return self._call(name, word, op, args, kwargs, in_place, used=bool(node.users))

    def _call(
        self,
        name: str,
        word: str,
        op: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        in_place: bool,
        used: bool,
    ) -> Ref:
        first, out = args[0] if args else None, kwargs.get("out")
        kind, keep = kind_of(word, args, kwargs), False
        changed: Any = None  # what later steps are given the result instead of
        if not word:
            self.unknown.add(name)
            self._share(name, args, kwargs)
            keep = not used  # it is called for what it changes
        elif word in VIEWS:
            self._share(name, args[:1] if word.endswith("as") else args)
        if out is not None:
            kind, keep, changed = "other", True, out
            self._share(name, out)
        elif in_place:
            # a number stays what it is under another name, so that no later step is given the new one
            tensor = isinstance(first, Ref) and (op not in AUGMENTED or first.name in self.tensors)
            changed = first if tensor and word != "setitem" else None  # which gives nothing
            plain = kind == "each" or word == "add" or op in AUGMENTED
            keep = changed is None or changed.name in self.shared or not plain
            if keep:
                self._share(name, first)
            else:  # a new value instead, which every later step is given
                op, args, kwargs = not_in_place(op, args, kwargs)
        if word in ("add", "iadd") and not keep and len(args) == 2 and kwargs.get("alpha", 1) == 1:
            op, kwargs = operator.add, {}
        if word == "relu" and not keep and isinstance(first, Ref):
            op, args, kwargs = functional.relu, (first,), {}
        made = self._add(Call(name, op, args, kwargs, kind, keep=keep))
        if isinstance(changed, Ref):
            self.now[changed.name] = made.name
        return made

    def _is_changed(self, node: fx.Node) -> bool:
        """Whether a step changes a value in place that this one gives, or a view of it."""
        for user in node.users:
            module = self.modules.get(str(user.target)) if user.op == "call_module" else None
            word, in_place = word_of(user, module)
            first = user.args[0] if user.args else user.kwargs.get("input")
            seen = word in VIEWS | SAME and self._is_changed(user)
            if first is node and (seen or (in_place and word not in SAME)):
                return True
        return False

    def _share(self, name: str, *trees: Any) -> None:
        self.shared.update([name, *(ref.name for ref in refs(trees))])

    def _conv(
        self, name: str, word: str, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Conv | None:
        """A convolution or linear layer with known weights; None for anything else."""
        given: dict[str, Any]
        words: tuple[str, ...]
        if module is not None:
            if conv_like(module) or (
                isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward
            ):
                words = ("weight", "bias", "stride", "padding", "dilation", "groups")
                if module.padding_mode != "zeros":
                    return None
                given, linear = {word: getattr(module, word) for word in words}, False
            elif isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
                given, linear = {"weight": module.weight, "bias": module.bias}, True
            else:
                return None
        elif word == "conv2d":
            words = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given, linear = dict(zip(words, args, strict=False)) | kwargs, False
        elif word == "linear":
            given, linear = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs, True
        else:
            return None
        weight, bias = given["weight"], given.get("bias")
        if not isinstance(weight, Tensor) or not (bias is None or isinstance(bias, Tensor)):
            return None
        parameter = self.parameters.get(id(weight))
        if weight.dim() != (2 if linear else 4) or (bias is not None and bias.shape != weight.shape[:1]):
            return None
        weight = weight.detach()[:, :, None, None] if linear else weight.detach()
        offset = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
        padding = _padding(given.get("padding", 0), weight, dilation)
        if padding is None or any(not isinstance(value, int) for value in (*stride, *padding, *dilation)):
            return None
        groups = given.get("groups", 1)
        return Conv(
            name,
            args[0].name,
            weight.contiguous(),
            offset.double(),
            stride,
            padding,
            dilation,
            groups=groups,
            linear=linear,
            parameter=parameter,
        )

    def _norm(
        self, name: str, word: str, op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Call | None:
        """A batch norm with running statistics; None for anything else."""
        given: dict[str, Any] = {"weight": None, "bias": None, "eps": 1e-5}
        if isinstance(op, _BatchNorm):
            if type(op).forward not in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
                return None
            given = {word: getattr(op, word) for word in (*_STATISTICS, *_SCALES, "eps")}
        elif word == "batchnorm" and not isinstance(op, nn.Module):
            tensors = (*_SCALES, *_STATISTICS) if op is torch.batch_norm else (*_STATISTICS, *_SCALES)
            words = ("input", *tensors, "training", "momentum", "eps")
            given |= dict(zip(words, args, strict=False)) | kwargs
            if given.get("training"):
                return None
        else:
            return None
        mean, variance = (given[word] for word in _STATISTICS)
        weight, bias = (given[word] for word in _SCALES)
        if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
            return None
        if any(isinstance(value, Ref) for value in (weight, bias, given["eps"])):
            return None
        return Call(name, Affine(mean, variance, weight, bias, given["eps"]), (args[0],))


def _named(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return list(model.named_modules(remove_duplicate=False))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, tuple | list):
        return (value[0], value[-1])
    return (value, value)


def _padding(value: Any, weight: Tensor, dilation: tuple[int, int]) -> tuple[int, int] | None:
    """Zeros on both sides of (height, width); None where the two sides differ."""
    if value == "valid":
        return 0, 0
    if value != "same":
        return _pair(value)
    total = [gap * (taps - 1) for gap, taps in zip(dilation, weight.shape[2:], strict=True)]
    return None if any(zeros % 2 for zeros in total) else (total[0] // 2, total[1] // 2)
