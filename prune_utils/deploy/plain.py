"""A graph as a module of dense convolutions: the reference of every engine, and what torch.export takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .graph import IMAGE, Conv, Graph, Pool


def pick_rows(residual: Tensor, rows: Tensor | None) -> Tensor:
    """residual [N, C, h, w] -> [N, O, h, w]: channel rows[o], or zeros where that is -1. None: as it is."""
    if rows is None:
        return residual
    padded = functional.pad(residual, (0, 0, 0, 0, 0, 1))
    return padded.index_select(1, torch.where(rows < 0, residual.shape[1], rows))


class Layer(nn.Module):
    """One convolution of a graph with its residual and rectifier."""

    def __init__(self, node: Conv):
        super().__init__()
        self.register_buffer("weight", node.weight)
        self.register_buffer("bias", node.bias.float())
        self.register_buffer("rows", node.rows)
        self.geometry = node.stride, node.padding, node.dilation
        self.relu = node.relu

    def forward(self, image: Tensor, residual: Tensor | None = None) -> Tensor:
        out = functional.conv2d(image, self.weight, self.bias, *self.geometry)
        if residual is not None:
            out = out + pick_rows(residual, self.rows)
        return functional.relu(out) if self.relu else out


class PlainNet(nn.Module):
    """image [N, 3, H, W] -> {task: [N, channels, h, w]}. `layer` makes the module of a convolution."""

    def __init__(self, graph: Graph, layer=Layer):
        super().__init__()
        self.layers = nn.ModuleDict(
            {node.name.replace(".", "_"): layer(node) for node in graph.nodes if isinstance(node, Conv)}
        )
        self.steps = [self._step(node) for node in graph.nodes]
        self.outputs = dict(graph.outputs)
        last = graph.last_use()
        self.drops = [
            [name for name, index in last.items() if index == step] for step in range(len(graph.nodes))
        ]

    @staticmethod
    def _step(node: Conv | Pool) -> tuple:
        if isinstance(node, Pool):
            return node.name, node.input, (node.kernel, node.stride, node.padding)
        return node.name, node.input, node.residual

    @staticmethod
    def pool(value: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        return functional.max_pool2d(value, kernel, stride, padding, ceil_mode=True)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        values = {IMAGE: image}
        for (name, source, other), drops in zip(self.steps, self.drops, strict=True):
            if isinstance(other, tuple):
                values[name] = self.pool(values[source], *other)
            else:
                layer = self.layers[name.replace(".", "_")]
                values[name] = layer(values[source], None if other is None else values[other])
            for dropped in drops:
                del values[dropped]
        return {task: values[name] for task, name in self.outputs.items()}
