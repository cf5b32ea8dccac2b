"""A graph as a torch.export program: any batch and image size, outputs by task, loads without our code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .graph import Graph
from .plain import PlainNet

EXAMPLE = (2, 65, 97)  # batch, height, width of the traced image: any that differ from each other
SMALLEST = 9  # pixels of an image's side


class PortableNet(PlainNet):
    """Pools without ceil_mode, whose size rule a program with free image sizes cannot hold."""

    @staticmethod
    def pool(value: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        # one row and column more at the end: the windows that ceil_mode adds, for 3 / 2 / 1 exactly
        padded = functional.pad(value, (0, stride - 1, 0, stride - 1), value=float("-inf"))
        return functional.max_pool2d(padded, kernel, stride, padding)


def exported_program(graph: Graph) -> torch.export.ExportedProgram:
    """The program: image [N, 3, H, W] float32 -> {task: [N, channels, h, w]}, sides of at least SMALLEST."""
    batch, height, width = EXAMPLE
    image = torch.zeros(batch, graph.image_channels, height, width)
    sizes = {
        0: torch.export.Dim.DYNAMIC,
        2: torch.export.Dim("height", min=SMALLEST),
        3: torch.export.Dim("width", min=SMALLEST),
    }
    with torch.no_grad():
        return torch.export.export(PortableNet(graph).eval(), (image,), dynamic_shapes=(sizes,))


def write_program(graph: Graph, path: Path) -> None:
    """The program as a .pt2 file for torch.export.load."""
    torch.export.save(exported_program(graph), path)
