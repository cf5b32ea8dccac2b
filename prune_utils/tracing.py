"""Which bare parameters a forward pass multiplies with data: a look at every operation that it runs.

A parameter that reaches the operand of a matrix product or convolution through views, casts, lookups, sums of
nothing but parameters or products with constants is a weight, if the other operand depends on the input.
Embeddings are looked up, positions added, scales multiplied elementwise: none of them is an operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PRODUCTS = _names(
    """mm addmm bmm baddbmm addbmm mv addmv dot linear matmul convolution _convolution mkldnn_linear
    convolution_overrideable mkldnn_convolution cudnn_convolution _trilinear _scaled_mm _grouped_mm"""
)
SUMMED = _names("addmm baddbmm addbmm addmv")  # whose first operand is added
LOOKUPS = _names("index index_select gather")
# zeros in, zeros out at the same place (or moved): what a weight may go through on its way to the product
CARRIERS = _names(
    "_to_copy clone copy_ mul mul_ div div_ neg cat stack repeat contiguous constant_pad_nd roll flip where"
)


def multiplied(
    run: Callable[[], Any], parameters: Mapping[str, Tensor], constants: Iterable[Tensor]
) -> dict[str, bool]:
    """Of every parameter that `run()` uses: is it an operand of a product with data?

    constants: tensors of the network that are no data (its buffers and other parameters).
    """
    watch = _Watch(parameters, constants)
    with torch.no_grad(), watch:
        run()
    return {name: name in watch.found for name in parameters if name in watch.seen}


class _Watch(TorchDispatchMode):
    def __init__(self, parameters: Mapping[str, Tensor], constants: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.seen: set[str] = set()
        # a view shares its storage with the parameter; storages of parameters live as long as the network
        self.homes: dict[int, list[tuple[int, int, str]]] = {}
        self.still: set[int] = {_storage(tensor) for tensor in constants if _has_storage(tensor)}
        self.made: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> names, of what is no view
        for name, tensor in parameters.items():
            start = int(tensor.storage_offset())
            self.homes.setdefault(_storage(tensor), []).append((start, start + tensor.numel(), name))

    def names(self, tensor: Tensor) -> frozenset[str] | None:
        """Parameters that the tensor is made of; none of ours for a constant, None for data."""
        if tensor in self.made:
            return self.made[tensor]
        if not _has_storage(tensor):
            return None
        home = self.homes.get(_storage(tensor))
        if home is not None:
            at = tensor.storage_offset()
            return frozenset(name for start, stop, name in home if start <= at < stop)
        return frozenset() if tensor.dim() == 0 or _storage(tensor) in self.still else None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operands = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        kinds = [self.names(operand) for operand in operands]
        result = func(*args, **(kwargs or {}))
        known = frozenset().union(*(kind for kind in kinds if kind))
        self.seen |= known
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            if None in kinds:
                taken = zip(operands, kinds, strict=True)
                for operand, kind in list(taken)[1 if name in SUMMED else 0 :]:
                    self.found |= kind if kind and operand.dim() > 1 else frozenset()
        elif kinds and (func.is_view or name in LOOKUPS):  # whoever chose the rows
            self._mark(result, kinds[0])
        elif kinds:
            carried = known if name in CARRIERS else frozenset()
            self._mark(result, None if None in kinds else carried)
        return result

    def _mark(self, result: Any, names: frozenset[str] | None) -> None:
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                if names is not None:
                    self.made[tensor] = names
                elif tensor in self.made:  # data was written into it
                    del self.made[tensor]


def _has_storage(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
