"""A network as a list of convolutions and poolings, batch norms folded in, ready to be simplified or run.

Every sum is a convolution's residual: the blocks' shortcuts, and a head's branches, each added to the one
before. Leaves out everything that training needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.multitask import MultiTaskNet
from models.resnet import Backbone, Block

IMAGE = "image"


@dataclass
class Conv:
    """out = relu?(conv(input) + bias + residual[rows]).

    weight [O, I, kh, kw] float32, pruned weights 0; bias [O] float64.
    rows: which residual channel each output adds, -1 = none; None = the same channel.
    """

    name: str
    input: str
    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    relu: bool = False
    residual: str | None = None
    rows: Tensor | None = None

    @property
    def channels(self) -> int:
        return self.weight.shape[0]


@dataclass
class Pool:
    """Maximum over windows, ceil_mode, channel by channel."""

    name: str
    input: str
    kernel: int
    stride: int
    padding: int
    channels: int


@dataclass
class Graph:
    """nodes in an order in which they can run; outputs: task -> node name."""

    nodes: list[Conv | Pool] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    image_channels: int = 3

    def channels(self) -> dict[str, int]:
        """Value name -> channels."""
        return {IMAGE: self.image_channels} | {node.name: node.channels for node in self.nodes}

    def last_use(self) -> dict[str, int]:
        """Value name -> index of the last node that reads it (the outputs: never dropped)."""
        last = {}
        for index, node in enumerate(self.nodes):
            for read in (node.input, getattr(node, "residual", None)):
                if read is not None:
                    last[read] = index
        return {name: index for name, index in last.items() if name not in self.outputs.values()}

    def convolutions(self) -> list[Conv]:
        return [node for node in self.nodes if isinstance(node, Conv)]

    def kept(self) -> int:
        """Weights that are not 0."""
        return sum(int(torch.count_nonzero(node.weight)) for node in self.convolutions())


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """The convolution and its norm (evaluation mode) as one weight float32 and bias float64."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.detach().double()
    if norm is not None:
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * scale[:, None, None, None]
        bias = (bias - norm.running_mean.double()) * scale + norm.bias.detach().double()
    return weight.float().contiguous(), bias


def _add(
    graph: Graph,
    name: str,
    source: str,
    layers: tuple[nn.Conv2d, nn.BatchNorm2d | None],
    relu: bool = False,
    residual: str | None = None,
) -> str:
    conv = layers[0]
    geometry = conv.stride[0], conv.padding[0], conv.dilation[0]
    graph.nodes.append(Conv(name, source, *_folded(*layers), *geometry, relu, residual))
    return name


def _add_block(graph: Graph, name: str, block: Block, source: str) -> str:
    shortcut = source
    if block.shortcut is not None:
        shortcut = _add(graph, f"{name}.shortcut", source, tuple(block.shortcut))
    inner = _add(graph, f"{name}.conv1", source, (block.conv1, block.norm1), relu=True)
    return _add(graph, f"{name}.conv2", inner, (block.conv2, block.norm2), relu=True, residual=shortcut)


def _add_trunk(graph: Graph, name: str, trunk: Backbone, source: str) -> str:
    for unit in trunk.units:
        if unit.place is None:
            stem = trunk.stem
            source = _add(graph, f"{name}.stem", source, (stem.conv, stem.norm), relu=True)
            pool = stem.pool
            graph.nodes.append(
                Pool(f"{name}.pool", source, pool.kernel_size, pool.stride, pool.padding, unit.outputs)
            )
            source = f"{name}.pool"
        else:
            stage, block = map(str, unit.place)
            source = _add_block(graph, f"{name}.{unit.name}", trunk.stages[stage][block], source)
    return source


def _add_head(graph: Graph, name: str, head: nn.ModuleList, source: str) -> str:
    total = None
    for index, branch in enumerate(head):
        inner = _add(graph, f"{name}.{index}.conv1", source, (branch.conv1, None), relu=True)
        inner = _add(graph, f"{name}.{index}.conv2", inner, (branch.conv2, None), relu=True)
        total = _add(graph, f"{name}.{index}.conv3", inner, (branch.conv3, None), residual=total)
    return total


def read_network(model: MultiTaskNet, tasks: tuple[str, ...] | None = None) -> Graph:
    """The graph of some of the network's tasks (None = all), as it computes in evaluation mode.

    ValueError for a task that the network does not have, or none at all.
    """
    tasks = model.tasks if tasks is None else tuple(tasks)
    if not tasks:
        raise ValueError(f"no task is asked for; the network has {', '.join(model.tasks)}")
    for task in tasks:
        if task not in model.tasks:
            raise ValueError(f"task '{task}' is not one of {', '.join(model.tasks)}")
    graph = Graph()
    features = _add_trunk(graph, "backbone", model.backbone, IMAGE)
    for task in tasks:
        own = features
        if task in model.branches:
            own = _add_trunk(graph, f"branches.{task}", model.branches[task], features)
        graph.outputs[task] = _add_head(graph, f"heads.{task}", model.heads[task], own)
    return graph
