"""The ways to run one convolution or linear layer: packed dense (oneDNN), plain, sparse; 32 or 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from .build import sparse_engine
from .graph import Conv
from .plain import Layer

TILINGS = ((6, 96), (4, 128), (8, 64), (4, 256))  # (vectors per tile, columns per block) that are tried
TILINGS16 = ((6, 192), (8, 128), (4, 256), (6, 256))


class DenseLayer(Layer):
    """Weights in channels-last order; fused and prepacked where this PyTorch has oneDNN.

    bf16: multiply in bfloat16, with sums of 32 bits; input and output stay float32.
    """

    def __init__(self, node: Conv, bf16: bool = False) -> None:
        super().__init__(node)
        self.bf16, self.kind = bf16, torch.bfloat16 if bf16 else torch.float32
        self.weight, self.bias = self.weight.to(self.kind), self.bias.to(self.kind)
        if not node.linear:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.packed = False

    def _pack(self, shape: tuple[int, ...]) -> None:
        """Put the weight into oneDNN's own order for inputs of this shape; others are taken as well."""
        geometry = self.padding, self.stride, self.dilation, self.groups
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, list(shape))
        self.packed = True

    def run(self, image: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        if self.kind == torch.float32:
            return self._run(image, residual, relu)
        added = None if residual is None else residual.to(self.kind)
        return self._run(image.to(self.kind), added, relu).float()

    def _run(self, image: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
        if self.axis == -1:
            return super().run(image, residual, relu)
        image = image.contiguous(memory_format=torch.channels_last)
        if image.device.type != "cpu" or not packs(self.bf16):
            return super().run(image, residual, relu)
        if not self.packed:
            self._pack(tuple(image.shape))
        weight = self.weight
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

    bf16: pixels and weights in bfloat16, sums in 32 bits.
    ValueError for a grouped convolution, and where the engine cannot be built or lacks these instructions.
    """

    def __init__(self, node: Conv, tiling: tuple[int, int] = TILINGS[0], bf16: bool = False) -> None:
        super().__init__(node)
        engine = sparse_engine()
        make = getattr(engine, "SparseConv16" if bf16 else "SparseConv", None)
        if make is None or node.groups > 1:
            lack = "no AVX512-BF16 instructions" if engine else "no compiled engine"
            raise ValueError(f"'{node.name}' cannot run sparse: {'groups' if make else lack}")
        self.bf16 = bf16
        self.weight = torch.empty(0)  # the kernel holds what is kept
        geometry = node.stride, node.padding, node.dilation
        self.kernel_of = make(node.weight, node.bias.float(), *geometry, *tiling)

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


def packs(bf16: bool) -> bool:
    """Whether oneDNN is here, and multiplies in bfloat16 on this processor."""
    if not torch.backends.mkldnn.is_available():
        return False
    return not bf16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bf16_runs() -> bool:
    """Whether the sparse convolution has been built with bfloat16 here."""
    return hasattr(sparse_engine(), "SparseConv16")


def _as_pixels(rows: Tensor) -> Tensor:
    """[..., C] -> [1, C, 1, rows]: a linear layer is a 1 x 1 convolution whose pixels are the rows."""
    return rows.reshape(-1, rows.shape[-1]).t()[None, :, None].contiguous()
