"""A graph as a torch.export program: loads without our code, for any batch and image size if possible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from .graph import Call, Conv, Graph
from .plain import PlainNet

EXAMPLE = (2, 65, 97)  # batch, height, width of the traced image: any that differ from each other
SMALLEST = 9  # pixels of an image's side


class OpenPool(nn.Module):
    """What a maximum pooling with ceil_mode computes, without it: its size rule needs the image's size."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.geometry = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.geometry
        # rows and columns at the end: the windows that ceil_mode adds, where padding + stride <= kernel
        padded = functional.pad(x, (0, stride - 1, 0, stride - 1), value=float("-inf"))
        return functional.max_pool2d(padded, kernel, stride, padding)


def portable(graph: Graph) -> Graph:
    """The graph without what torch.export cannot hold for free image sizes, as far as that is possible."""
    return replace(graph, nodes=[_opened(node) if isinstance(node, Call) else node for node in graph.nodes])


def _opened(node: Call) -> Call:
    pool = node.op
    if not isinstance(pool, nn.MaxPool2d) or not pool.ceil_mode or pool.return_indices:
        return node
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if (
        pool.dilation != 1
        or isinstance(kernel, tuple)
        or isinstance(stride, tuple)
        or isinstance(padding, tuple)
    ):
        return node
    return replace(node, op=OpenPool(kernel, stride, padding)) if padding + stride <= kernel else node


def example_of(graph: Graph) -> tuple[Tensor, ...] | None:
    """An image for a network whose only input goes into a convolution; None for any other."""
    if len(graph.inputs) != 1:
        return None
    readers = [node for node in graph.nodes if graph.inputs[0] in node.reads]
    first = next((node for node in readers if isinstance(node, Conv) and not node.linear), None)
    if first is None:
        return None
    batch, height, width = EXAMPLE
    return (torch.zeros(batch, first.weight.shape[1] * first.groups, height, width),)


def exported_program(graph: Graph, example: tuple[Any, ...] | None = None) -> torch.export.ExportedProgram:
    """The program: the network's arguments -> what it returns, in float32 on the CPU.

    example: arguments of one call; None = an image, where the network takes one. Sizes that its code does not
    fix
    stay free: sides of an image of at least SMALLEST pixels, any batch.
    ValueError where an example is needed, or where torch.export refuses the network.
    """
    net = PlainNet(portable(graph)).eval()
    inputs = example_of(graph) if example is None else example
    if inputs is None:
        raise ValueError("the network does not take one image: give an example of its arguments")
    free: list[Any] = [pytree.tree_map(_free, inputs), pytree.tree_map(_automatic, inputs), None]
    only_convolutions = example is None and all(
        isinstance(node, Conv) or node.channels for node in graph.nodes
    )
    error: Exception | None = None
    for sizes in free if only_convolutions else free[1:]:
        try:
            with torch.no_grad():
                return torch.export.export(net, inputs, dynamic_shapes=None if sizes is None else (sizes,))
        except Exception as refused:  # noqa: BLE001  # torch.export has no one kind of error
            error = refused
    raise ValueError(f"torch.export refuses this network: {str(error).strip().splitlines()[0]}") from error


def _free(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    sides = {2: torch.export.Dim("height", min=SMALLEST), 3: torch.export.Dim("width", min=SMALLEST)}
    return {0: torch.export.Dim.DYNAMIC} | sides


def _automatic(value: Any) -> Any:
    return [torch.export.Dim.AUTO] * value.dim() if isinstance(value, Tensor) else None


def write_program(graph: Graph, path: Path, example: tuple[Any, ...] | None = None) -> None:
    """The program as a .pt2 file for torch.export.load."""
    program = exported_program(graph, example)
    with path.open("wb") as file:
        torch.export.save(program, file)
