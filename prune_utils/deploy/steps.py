"""What the steps of a traced program are called, and what they do to channels and to memory."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.parametrize import type_before_parametrizations

from .graph import Ref, refs

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
# x += y and its like: they change a tensor x in place; a number is another one afterwards
AUGMENTED: tuple[Callable[..., Any], ...] = (
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod),
    *(operator.ipow, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift),
)


class Method:
    """A tensor's method as a function."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(value, self.__name__)(*args, **kwargs)


def word_of(node: fx.Node, module: nn.Module | None) -> tuple[str, bool]:
    """(what a step is called in lower case without underscores, whether it changes its input in place).

    ("", False) for code that is not PyTorch's: other modules and functions, and modules with hooks.
    """
    if module is not None:
        kind = type_before_parametrizations(module)
        known = kind.__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
        if not known or hooked(module):
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


def order_of(word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.memory_format | None:
    """The order in memory that a step brings a value into, if it does nothing else."""
    if word == "contiguous":
        return kwargs.get("memory_format", args[1] if len(args) > 1 else torch.contiguous_format)
    alone = word == "to" and len(args) == 1 and set(kwargs) == {"memory_format"}
    return kwargs["memory_format"] if alone else None


def function_of(node: fx.Node, args: tuple[Any, ...]) -> Callable[..., Any]:
    """What a call of a function or method runs."""
    if node.op == "call_function":
        assert callable(node.target)
        return node.target
    # our convolutions may lay out their results in another order
    if node.target == "view" and not any(isinstance(arg, torch.dtype) for arg in args):
        return Method("reshape")
    return Method(str(node.target))


def not_in_place(
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


def hooked(module: nn.Module) -> bool:
    """Whether something else than the module's own forward takes part in its result."""
    return bool(module._forward_pre_hooks or module._forward_hooks)


def training(word: str, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module | None) -> bool:
    if module is not None or not word.endswith("dropout"):
        return False
    return bool(kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True)))


def kind_of(word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What a call does to channels, provided that those of its values are known."""
    if word in EACH and not any(True for _ in refs((args[1:], kwargs))):
        return "each"
    if word in WINDOW:
        return "window"
    joined = word in ("cat", "concat", "concatenate") and args and isinstance(args[0], list | tuple)
    return "join" if joined and all(isinstance(part, Ref) for part in args[0]) else "other"
