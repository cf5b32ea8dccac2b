"""A network as steps in the order in which they run: convolutions, which can be simplified, and all else.

Convolutions and linear layers hold their norm, residual sum and rectifier; what else a network computes is a
call of PyTorch, of which only the effect on channels is known. reading.py makes a graph of any module.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

IMAGE = "image"
Pair = tuple[int, int]


@dataclass(frozen=True)
class Ref:
    """A value of the graph where it stands among a call's arguments or in the result."""

    name: str


@dataclass
class Conv:
    """out = relu?(conv(input) + bias + residual[rows]).

    weight [O, I / groups, kh, kw] float32, pruned weights 0; bias [O] float64.
    linear: the input is [..., I] and the kernel 1 x 1, as in torch.nn.Linear.
    stride, padding, dilation: one number, or (height, width).
    rows: which residual channel each output adds, -1 = none; None = the same channel.
    parameter: the network's name of the weight.
    """

    name: str
    input: str
    weight: Tensor
    bias: Tensor
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    relu: bool = False
    residual: str | None = None
    rows: Tensor | None = None
    groups: int = 1
    linear: bool = False
    parameter: str | None = None

    def __post_init__(self) -> None:
        for name in ("stride", "padding", "dilation"):
            value = getattr(self, name)
            setattr(self, name, (value, value) if isinstance(value, int) else tuple(value))
        # one tap has no gaps, and oneDNN reads outside the image where it is told of some
        (rows, columns), (down, across) = self.weight.shape[2:], self.dilation
        self.dilation = (down if rows > 1 else 1, across if columns > 1 else 1)

    @property
    def channels(self) -> int:
        return self.weight.shape[0]

    @property
    def axis(self) -> int:
        """Of the channels, in input and output."""
        return -1 if self.linear else 1

    @property
    def reads(self) -> list[str]:
        return [self.input] if self.residual is None else [self.input, self.residual]


@dataclass
class Call:
    """out = op(*args, **kwargs), with a Ref wherever a value of the graph stands.

    kind says what it does to channels:
        each     every element for itself, the same function for all (a rectifier); args[0] is the value
        window   every channel for itself, a constant channel stays what it is (pooling); args[0] is the value
        join     channels of several values one after the other; args[0] is the list of values
        other    anything
    channels and axis: of the result, None where unknown. keep: it changes a value in place.
    """

    name: str
    op: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    kind: str = "other"
    channels: int | None = None
    axis: int = 1
    keep: bool = False

    @property
    def reads(self) -> list[str]:
        return [ref.name for ref in refs((self.args, self.kwargs))]

    @property
    def values(self) -> list[str]:
        """Values whose channels the result has; empty for kind other."""
        if self.kind == "other":
            return []
        return [ref.name for ref in refs(self.args[0])]


Node = Conv | Call


def live(node: Conv) -> int:
    """Weights that are not 0."""
    return int(torch.count_nonzero(node.weight))


def refs(tree: Any) -> Iterator[Ref]:
    """Every Ref in nested tuples, lists, dicts and slices."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from refs(part)
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from refs(part)
    elif isinstance(tree, slice):
        yield from refs((tree.start, tree.stop, tree.step))


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """The container with change(part) in the place of every part; anything else as it is."""
    if isinstance(tree, dict):
        return {key: change(part) for key, part in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(change, tree))
    if isinstance(tree, tuple | list):
        return (tuple if isinstance(tree, tuple) else list)(map(change, tree))
    if isinstance(tree, slice):
        return slice(change(tree.start), change(tree.stop), change(tree.step))
    return tree


def filled(tree: Any, values: Callable[[str], Any]) -> Any:
    """The tree with values(name) in the place of every Ref."""
    if isinstance(tree, Ref):
        return values(tree.name)
    return mapped(lambda part: filled(part, values), tree)


def untaken(name: str, *taken: Container[str]) -> str:
    """The name, with numbers behind it where it is taken."""
    found, number = name, 1
    while any(found in names for names in taken):
        found, number = f"{name}.{number}", number + 1
    return found


@dataclass
class Graph:
    """nodes in an order in which they can run.

    inputs: names of the network's arguments. outputs: name of an output -> name of its value.
    structure: what the network returns, with a Ref for every value; None = the outputs as a dict.
    """

    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = (IMAGE,)
    structure: Any = None

    def result(self, values: dict[str, Any]) -> Any:
        """What the network returns, given every value by name."""
        if self.structure is None:
            return {name: values[value] for name, value in self.outputs.items()}
        return filled(self.structure, values.__getitem__)

    def channels(self) -> dict[str, int]:
        """Value name -> channels, where they are known."""
        return {node.name: node.channels for node in self.nodes if node.channels is not None}

    def axes(self) -> dict[str, int]:
        """Value name -> axis of its channels, where they are known."""
        return {node.name: node.axis for node in self.nodes if node.channels is not None}

    def last_use(self) -> dict[str, int]:
        """Value name -> index of the last node that reads it (the outputs: never dropped)."""
        last = {read: index for index, node in enumerate(self.nodes) for read in node.reads}
        return {name: index for name, index in last.items() if name not in self.outputs.values()}

    def convolutions(self) -> list[Conv]:
        return [node for node in self.nodes if isinstance(node, Conv)]

    def kept(self) -> int:
        """Weights of convolutions and linear layers that are not 0."""
        return sum(map(live, self.convolutions()))

    def left_dense(self) -> dict[str, str]:
        """What no sparse engine runs: layers with weights of two or more dimensions -> what they are."""
        found = {
            node.name: f"convolution in {node.groups} groups"
            for node in self.convolutions()
            if node.groups > 1
        }
        for node in self.nodes:
            if isinstance(node, Call):
                held = node.op.parameters() if isinstance(node.op, nn.Module) else _tensors(node)
                if any(value.dim() > 1 for value in held):
                    found[node.name] = (
                        type(node.op).__name__ if isinstance(node.op, nn.Module) else _called(node.op)
                    )
        return found


def _tensors(node: Call) -> list[Tensor]:
    """Numbers that a call is given, less the axes that only spread them: a mean of colours is a vector."""
    parts = [*node.args, *node.kwargs.values()]
    return [part.squeeze() for part in parts if isinstance(part, Tensor) and part.is_floating_point()]


def _called(op: Callable[..., Any]) -> str:
    return getattr(op, "__name__", type(op).__name__)
