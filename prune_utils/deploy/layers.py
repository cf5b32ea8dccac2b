"""The ways to run one convolution: packed dense (oneDNN, channels last), plain dense, and sparse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .build import sparse_engine
from .graph import Conv
from .plain import Layer, pick_rows

TILINGS = (
    (6, 96),
    (4, 128),
    (8, 64),
    (4, 256),
)  # (vectors per tile, columns per block): what the sparse walk tries


class DenseLayer(Layer):
    """Weights in channels-last order; fused and prepacked where this PyTorch has oneDNN."""

    def __init__(self, node: Conv):
        super().__init__(node)
        self.weight = node.weight.contiguous(memory_format=torch.channels_last)
        self.packed: dict[tuple[int, ...], Tensor] = {}

    def _packed(self, shape: tuple[int, ...]) -> Tensor:
        if shape not in self.packed:
            stride, padding, dilation = ([value] * 2 for value in self.geometry)
            self.packed.clear()  # one shape at a time: a packed weight is as large as the weight
            self.packed[shape] = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, padding, stride, dilation, 1, list(shape)
            )
        return self.packed[shape]

    def forward(self, image: Tensor, residual: Tensor | None = None) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        if not torch.backends.mkldnn.is_available():
            return super().forward(image, residual)
        stride, padding, dilation = ([value] * 2 for value in self.geometry)
        weight = self._packed(tuple(image.shape))
        tail = (self.bias, padding, stride, dilation, 1)
        relu = "relu" if self.relu else "none"
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(image, weight, *tail, relu, [], "")
        added = pick_rows(residual, self.rows).contiguous(memory_format=torch.channels_last)
        after = "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise.binary(
            image, added, weight, *tail, "add", 1.0, after, [], ""
        )


class SparseLayer(nn.Module):
    """Walks the kept weights (csrc/). tiling: (vectors per tile of pixels, columns per block)."""

    def __init__(self, node: Conv, tiling: tuple[int, int] = TILINGS[0]):
        super().__init__()
        geometry = node.stride, node.padding, node.dilation
        self.kernel = sparse_engine().SparseConv(node.weight, node.bias.float(), *geometry, *tiling)
        self.rows, self.relu = node.rows, node.relu

    def forward(self, image: Tensor, residual: Tensor | None = None) -> Tensor:
        added = None if residual is None else pick_rows(residual, self.rows)
        return self.kernel.forward(image, added, self.relu)
