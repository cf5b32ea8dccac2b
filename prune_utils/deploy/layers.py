"""The ways to run one convolution or linear layer: packed dense (oneDNN), plain dense, sparse."""

from __future__ import annotations

import torch
from torch import Tensor

from .build import sparse_engine
from .graph import Conv
from .plain import Layer

TILINGS = ((6, 96), (4, 128), (8, 64), (4, 256))  # (vectors per tile, columns per block) that are tried


class DenseLayer(Layer):
    """Weights in channels-last order; fused and prepacked where this PyTorch has oneDNN."""

    def __init__(self, node: Conv) -> None:
        super().__init__(node)
        if not node.linear:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.packed: dict[tuple[int, ...], Tensor] = {}

    def _packed(self, shape: tuple[int, ...]) -> Tensor:
        if shape not in self.packed:
            self.packed.clear()  # one shape at a time: a packed weight is as large as the weight
            self.packed[shape] = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, self.dilation, self.groups, list(shape)
            )
        return self.packed[shape]

    def run(self, image: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        if self.axis == -1:
            return super().run(image, residual, relu)
        image = image.contiguous(memory_format=torch.channels_last)
        if not torch.backends.mkldnn.is_available() or image.device.type != "cpu":
            return super().run(image, residual, relu)
        weight = self._packed(tuple(image.shape))
        tail = (self.bias, self.padding, self.stride, self.dilation, self.groups)
        if residual is None:
            after = "relu" if relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(image, weight, *tail, after, [], "")
        added = residual.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise.binary(
            image, added, weight, *tail, "add", 1.0, "relu" if relu else None, [], ""
        )


class SparseLayer(Layer):
    """Walks the kept weights (csrc/). tiling: (vectors per tile of pixels, columns per block).

    ValueError for a grouped convolution, and where the engine cannot be built.
    """

    def __init__(self, node: Conv, tiling: tuple[int, int] = TILINGS[0]) -> None:
        super().__init__(node)
        engine = sparse_engine()
        if engine is None or node.groups > 1:
            raise ValueError(
                f"'{node.name}' cannot run sparse: {'groups' if engine else 'no compiled engine'}"
            )
        self.weight = torch.empty(0)  # the kernel holds what is kept
        geometry = node.stride, node.padding, node.dilation
        self.kernel_of = engine.SparseConv(node.weight, node.bias.float(), *geometry, *tiling)

    def run(self, image: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        if self.axis == 1:
            return self.kernel_of.forward(image, residual, relu)
        shape = self.shape(image)
        if not image.numel():
            return image.new_zeros(shape)
        rows = self.kernel_of.forward(
            _as_pixels(image), None if residual is None else _as_pixels(residual), relu
        )
        return rows[0, :, 0].t().reshape(shape)


def _as_pixels(rows: Tensor) -> Tensor:
    """[..., C] -> [1, C, 1, rows]: a linear layer is a 1 x 1 convolution whose pixels are the rows."""
    return rows.reshape(-1, rows.shape[-1]).t()[None, :, None].contiguous()
