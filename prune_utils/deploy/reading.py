"""Any module as a graph: its program is traced by torch.fx and told in the terms of graph.py.

Norms move into the convolutions before them, sums and rectifiers into the last write of a convolution. A
submodule that cannot be traced stays whole and runs as it is; everything that is not known does too. Weights
are copied: the network may be trained on. Leaves out training mode.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import type_before_parametrizations

from ..copying import copied
from ..parameters import unwrap
from ..text import not_one_of
from .fusing import Affine, fused
from .graph import Call, Conv, Graph, Node, Ref, mapped, refs, untaken

# what torch calls its modules, functions and methods, in lower case and without underscores
_WORDS = {
    "each": "relu relu6 hardswish silu sigmoid tanh leakyrelu gelu elu selu celu hardtanh hardsigmoid "
    "softplus softsign mish logsigmoid",
    "window": "maxpool2d avgpool2d adaptiveavgpool2d adaptivemaxpool2d upsample interpolate "
    "upsamplingnearest2d upsamplingbilinear2d",
    "same": "identity dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout",
    # may give the memory that they are given
    "views": "view viewas reshape reshapeas flatten unflatten ravel transpose permute t mt h mh adjoint "
    "movedim moveaxis swapaxes swapdims squeeze unsqueeze expand expandas broadcastto broadcasttensors "
    "atleast1d atleast2d atleast3d meshgrid chunk split splitwithsizes tensorsplit hsplit vsplit dsplit "
    "unbind narrow select getitem values indices diagonal unfold asstrided einsum sumtosize detach alias "
    "pos positive real imag viewasreal viewascomplex conj resolveconj resolveneg to type typeas float "
    "double half bfloat16 long int short char byte bool cpu cuda pinmemory",
    # those that copy what lies in another order
    "merging": "view viewas reshape reshapeas flatten ravel",
    # attributes of a tensor that are no tensors
    "facts": "shape dtype device ndim layout names itemsize nbytes requires_grad is_cuda",
}
EACH, WINDOW, SAME, VIEWS, MERGING, FACTS = (frozenset(words.split()) for words in _WORDS.values())
SPACES = (torch, functional, Tensor)
_STATISTICS, _SCALES = ("running_mean", "running_var"), ("weight", "bias")  # of a batch norm
# x += y and its like: they change a tensor x in place; a number is another one afterwards
AUGMENTED: tuple[Callable[..., Any], ...] = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod),
    *(operator.ipow, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift),
)


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
    root = _root(twin, names)
    graph = _Reader(twin, root, _Tracer().trace(root), names).read()
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


def _root(net: nn.Module, names: list[str]) -> nn.Module:
    """A module that calls the network with these arguments, so that the network itself is a submodule."""
    space: dict[str, Any] = {}
    words = ", ".join(names)
    exec(
        f"def forward(self, {words}): return self.net({words})", space
    )  # fx counts the arguments in the code
    root = type("Root", (nn.Module,), {"forward": space["forward"]})()
    root.net = net
    return root


class _Proxy(fx.Proxy):
    """Records `x += y` and its like as they are; torch.fx would tell `x = x + y`."""

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Attribute(fx.proxy.Attribute):
    """The same of an attribute: `x.data += y`."""

    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


def _recorded(change: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda x, y: x.tracer.create_proxy("call_function", change, (x, y), {})


for _change in AUGMENTED:
    for _kind_of_proxy in (_Proxy, _Attribute):
        setattr(_kind_of_proxy, f"__{_change.__name__}__", _recorded(_change))


class _Tracer(fx.Tracer):
    """Leaves a submodule whole where its code asks for values that only a run knows."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _conv_like(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        last, stack = next(iter(reversed(self.graph.nodes)), None), OrderedDict(self.module_stack)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # whatever the network's own code says when it is given a proxy
            for node in reversed(self.graph.nodes):
                if node is last:
                    break
                self.graph.erase_node(node)
            self.module_stack = stack
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _conv_like(module: nn.Module) -> bool:
    """A convolution whose own forward computes what torch's does and says so by `computes_as`."""
    return getattr(type(module), "computes_as", None) is nn.Conv2d


class Method:
    """A tensor's method as a function."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, self.__name__)(*args, **kwargs)


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
            if node.op in ("call_function", "call_method") and _word(node, None)[1]
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
        word, in_place = _word(node, module)
        op: Callable[..., Any] = module if module is not None else _function(node, args)
        if word not in ("", "searchsorted") and not args and "input" in kwargs:  # whose first argument it is
            args = (kwargs.pop("input"),)
        name = self._fresh(str(node.target).removeprefix("net.") if module is not None else node.name)
        first = args[0] if args else None
        if isinstance(first, Ref) and not (module is not None and _hooked(module)):
            if word in SAME and not _training(word, args, kwargs, module):
                return first
            order = _order(word, args, kwargs)
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
        kind, keep = _kind(word, args, kwargs), False
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
                op, args, kwargs = _not_in_place(op, args, kwargs)
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
            word, in_place = _word(user, module)
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
            if _conv_like(module) or (
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


def _word(node: fx.Node, module: nn.Module | None) -> tuple[str, bool]:
    """(what a step is called in lower case without underscores, whether it changes its input in place).

    ("", False) for code that is not PyTorch's: other modules and functions, and modules with hooks.
    """
    if module is not None:
        kind = type_before_parametrizations(module)
        known = kind.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        if not known or _hooked(module):
            return "", False
        return kind.__name__.lower(), getattr(module, "inplace", False) is True
    if node.target is getattr:
        return (str(node.args[1]) if node.args[1] in FACTS else "getitem"), False
    if node.op == "call_method":
        name = str(node.target)
    else:
        name = getattr(node.target, "__name__", "")
        known = any(getattr(space, name, None) is node.target for space in SPACES)
        if not known and getattr(operator, name, None) is not node.target:
            return "", False
    special = name.startswith("__")
    in_place = (name.endswith("_") and not special) or (
        name.startswith("i") and hasattr(operator, f"__{name}__")
    )
    in_place = in_place and name not in ("index", "invert", "is_", "is_not", "inv", "indexOf")
    word = name.strip("_").replace("_", "").lower()
    return word, in_place or word == "setitem" or _told_in_place(node)


def _told_in_place(node: fx.Node) -> bool:
    """Whether a function of torch.nn.functional is told to change its input."""
    if not callable(node.target):
        return False
    try:
        given = inspect.signature(node.target).bind_partial(*node.args, **node.kwargs).arguments
    except (TypeError, ValueError):  # of a builtin, which has no such argument
        return False
    return given.get("inplace") is True


def _order(word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.memory_format | None:
    """The order in memory that a step brings a value into, if it does nothing else."""
    if word == "contiguous":
        return kwargs.get("memory_format", args[1] if len(args) > 1 else torch.contiguous_format)
    alone = word == "to" and len(args) == 1 and set(kwargs) == {"memory_format"}
    return kwargs["memory_format"] if alone else None


def _function(node: fx.Node, args: tuple[Any, ...]) -> Callable[..., Any]:
    """What a call of a function or method runs."""
    if node.op == "call_function":
        assert callable(node.target)
        return node.target
    # our convolutions may lay out their results in another order
    if node.target == "view" and not any(isinstance(arg, torch.dtype) for arg in args):
        return Method("reshape")
    return Method(str(node.target))


def _not_in_place(
    op: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The same without the change of the input."""
    if isinstance(op, nn.Module):
        op = copy.copy(op)
        op.inplace = False  # type: ignore[assignment]  # a plain flag of every such module
    elif isinstance(op, Method):
        op = Method(op.__name__.removesuffix("_"))
    elif op in AUGMENTED:
        op = getattr(operator, f"__{op.__name__[1:]}__")
    elif getattr(op, "__name__", "").endswith("_"):
        op = getattr(torch, op.__name__.removesuffix("_"), None) or getattr(
            functional, op.__name__.removesuffix("_")
        )
    kwargs = {key: value for key, value in kwargs.items() if key != "inplace"}
    return op, (args[0], *(False if arg is True else arg for arg in args[1:])), kwargs


def _hooked(module: nn.Module) -> bool:
    """Whether something else than the module's own forward takes part in its result."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def _training(word: str, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module | None) -> bool:
    if module is not None or not word.endswith("dropout"):
        return False
    return bool(kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True)))


def _kind(word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a call does to channels, provided that those of its values are known."""
    if word in EACH and not any(True for _ in refs((args[1:], kwargs))):
        return "each"
    if word in WINDOW:
        return "window"
    joined = word in ("cat", "concat", "concatenate") and args and isinstance(args[0], list | tuple)
    return "join" if joined and all(isinstance(part, Ref) for part in args[0]) else "other"


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
