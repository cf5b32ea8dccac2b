"""A graph as a module of dense convolutions: the reference of every engine, and what torch.export takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from .graph import Call, Conv, Graph, Node, Ref, mapped


def pick_rows(residual: Tensor, rows: Tensor | None, axis: int = 1) -> Tensor:
    """Channel rows[o] of the residual along `axis`, or zeros where that is -1. rows None: as it is."""
    if rows is None:
        return residual
    padded = torch.cat([residual, torch.zeros_like(residual.narrow(axis, 0, 1))], dim=axis)
    return padded.index_select(axis, torch.where(rows < 0, residual.shape[axis], rows))


class Layer(nn.Module):
    """One convolution or linear layer of a graph with its residual and rectifier."""

    weight: Tensor
    bias: Tensor
    rows: Tensor | None

    def __init__(self, node: Conv) -> None:
        super().__init__()
        self.register_buffer("weight", node.weight.flatten(1) if node.linear else node.weight)
        self.register_buffer("bias", node.bias.float())
        self.register_buffer("rows", node.rows)
        self.stride, self.padding, self.dilation = node.stride, node.padding, node.dilation
        self.groups, self.axis, self.relu = node.groups, node.axis, node.relu
        self.kernel: tuple[int, ...] = tuple(node.weight.shape[2:])

    def forward(self, image: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            residual = pick_rows(residual, self.rows, -1 if self.axis == -1 else -3)
            if residual.shape != self.shape(
                image
            ):  # it is broadcast: nothing that a kernel could add in passing
                out = self._batched(image, None, False) + residual
                return functional.relu(out) if self.relu else out
        return self._batched(image, residual, self.relu)

    def _batched(self, image: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """run, of a single image [C, H, W] as of a batch of one."""
        if self.axis == -1 or image.dim() != 3:
            return self.run(image, residual, relu)
        return self.run(image[None], None if residual is None else residual[None], relu)[0]

    def run(self, image: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        """image: of a convolution [N, C, H, W]. residual: None, or of the output's shape."""
        if self.axis == -1:
            out = functional.linear(image, self.weight, self.bias)
        else:
            geometry = self.stride, self.padding, self.dilation, self.groups
            out = functional.conv2d(image, self.weight, self.bias, *geometry)
        if residual is not None:
            out = out + residual
        return functional.relu(out) if relu else out

    def shape(self, image: Tensor) -> tuple[int, ...]:
        """Of the output for this input."""
        channels = self.bias.shape[0]
        if self.axis == -1:
            return (*image.shape[:-1], channels)
        sizes = zip(image.shape[-2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return (
            *image.shape[:-3],
            channels,
            *((size + 2 * pad - gap * (taps - 1) - 1) // step + 1 for size, taps, step, pad, gap in sizes),
        )


class PlainNet(nn.Module):
    """The network's own arguments -> what it returns. `layer` makes the module of a convolution."""

    def __init__(self, graph: Graph, layer: Callable[[Conv], nn.Module] = Layer) -> None:
        super().__init__()
        self.steps = nn.ModuleList(step_of(node, layer) for node in graph.nodes)
        self.plan = [(node.name, sources(node)) for node in graph.nodes]
        self.graph = Graph([], dict(graph.outputs), graph.inputs, graph.structure)
        last = graph.last_use()
        self.drops = [[name for name, at in last.items() if at == step] for step in range(len(self.plan))]

    @property
    def layers(self) -> dict[str, nn.Module]:
        """Convolution name -> its module."""
        pairs = zip(self.plan, self.steps, strict=True)
        return {name: step for (name, read), step in pairs if read is not None}

    def forward(self, *inputs: Any) -> Any:
        values = given(self.graph, inputs)
        for (name, read), step, drops in zip(self.plan, self.steps, self.drops, strict=True):
            values[name] = run_step(step, read, values)
            for dropped in drops:
                del values[dropped]
        return self.graph.result(values)


def given(graph: Graph, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """Value name -> value of the network's arguments; ValueError for another number of them."""
    if len(inputs) != len(graph.inputs):
        raise ValueError(f"the network takes {', '.join(graph.inputs)}, not {len(inputs)} arguments")
    return dict(zip(graph.inputs, inputs, strict=True))


def fresh(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of the network's arguments, which it may change in place."""
    return pytree.tree_map_only(Tensor, torch.clone, inputs)


def sources(node: Node) -> tuple[str, str | None] | None:
    """Input and residual of a convolution; None for a call, which looks up what it reads."""
    return (node.input, node.residual) if isinstance(node, Conv) else None


def step_of(node: Node, layer: Callable[[Conv], nn.Module]) -> nn.Module:
    """The module that computes a node."""
    return layer(node) if isinstance(node, Conv) else Calling(node)


def run_step(step: nn.Module, read: tuple[str, str | None] | None, values: dict[str, Any]) -> Any:
    """A node's value, computed by its module."""
    if read is None:
        return step(values)
    return step(values[read[0]], None if read[1] is None else values[read[1]])


class Calling(nn.Module):
    """A call; its module and tensors are registered, so that they move and export along."""

    def __init__(self, node: Call) -> None:
        super().__init__()
        self.op = node.op
        self.args, self.kwargs = self._held(node.args), self._held(node.kwargs)

    def _held(self, tree: Any) -> Any:
        """The tree with the name of a buffer in the place of each tensor."""
        if isinstance(tree, Tensor):
            name = f"tensor_{len(self._buffers)}"
            self.register_buffer(name, tree)
            return Held(name)
        return mapped(self._held, tree)

    def forward(self, values: dict[str, Any]) -> Any:
        def fill(tree: Any) -> Any:
            if isinstance(tree, Held):
                return getattr(self, tree.name)
            return values[tree.name] if isinstance(tree, Ref) else mapped(fill, tree)

        return self.op(*fill(self.args), **fill(self.kwargs))


@dataclass(frozen=True)
class Held:
    """A tensor that a module holds, among a call's arguments."""

    name: str
