"""Which bare parameters a forward pass multiplies with data: a look at every operation that it runs.

A parameter that reaches the operand of a matrix product or convolution through views, casts, lookups, sums of
nothing but parameters or products with constants is a weight, if the other operand depends on the input.
What the pass itself makes of no tensor (zeros, a triangle of ones) is a constant, unless it is drawn by lot.
Embeddings are looked up, positions added, scales multiplied elementwise: none of them is an operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
    """_to_copy clone copy_ mul mul_ div div_ neg cat stack repeat contiguous constant_pad_nd roll flip where
    tril triu diag_embed block_diag index_put index_put_ scatter scatter_ index_copy index_copy_ slice_scatter
    select_scatter"""
)
RANDOM = torch.Tag.nondeterministic_seeded
# filled alike whatever tensor they follow; not those that leave their memory to whoever writes it
FILLED = _names("new_zeros new_ones new_full zeros_like ones_like full_like")


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
        # storage -> names, of what is made in the pass; the reference keeps the number from being given again
        self.made: dict[int, tuple[StorageWeakRef, frozenset[str]]] = {}
        self.filled: set[int] = set()  # of these, constants that come from no tensor
        for name, tensor in parameters.items():
            start = int(tensor.storage_offset())
            self.homes.setdefault(_storage(tensor), []).append((start, start + tensor.numel(), name))

    def names(self, tensor: Tensor) -> frozenset[str] | None:
        """Parameters that the tensor is made of; none of ours for a constant, None for data."""
        if not _has_storage(tensor):
            return None
        made, home = self.made.get(_storage(tensor)), self.homes.get(_storage(tensor))
        if home is not None:
            at = tensor.storage_offset()
            return frozenset(name for start, stop, name in home if start <= at < stop)
        if made is not None:
            return made[1]
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
            self._mark(result, operands, None)
        elif func.is_view:  # known by its storage
            pass
        elif name in LOOKUPS and kinds[0]:  # whoever chose the rows
            self._mark(result, operands, kinds[0])
        elif RANDOM not in func.tags and (None in kinds and name in FILLED if kinds else "empty" not in name):
            self._mark(result, operands, frozenset())
            self.filled |= set(map(_storage, filter(_has_storage, tree_leaves(result))))
        elif None in kinds or all(self._is_filled(operand) for operand in operands) and RANDOM in func.tags:
            self._mark(result, operands, None)  # latents and noise too
        elif kinds:
            self._mark(result, operands, known if name in CARRIERS else frozenset())
        return result

    def _is_filled(self, tensor: Tensor) -> bool:
        return _has_storage(tensor) and _storage(tensor) in self.filled

    def _mark(self, result: Any, operands: Sequence[Tensor], names: frozenset[str] | None) -> None:
        there = {_storage(operand) for operand in operands if _has_storage(operand)}
        for tensor in filter(_has_storage, tree_leaves(result)):
            storage = _storage(tensor)
            before = self.made.get(storage)
            if names is None:  # data was written into it
                self.made.pop(storage, None)
                self.filled.discard(storage)
            elif before is not None:
                self.made[storage] = before[0], before[1] | names
            elif storage not in self.homes and (storage not in there or storage in self.still):
                self.made[storage] = StorageWeakRef(tensor.untyped_storage()), names


def _has_storage(tensor: Any) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
