"""Several processes that work on one network: what all of them hold of a tensor, in every one of them.

Where the user passes no `gather`, the default group of torch.distributed is asked, by all processes at the
same place. Left out: processes that have no such group, and those of different networks, which say so by a
`gather` of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from .shards import sharded


def several() -> bool:
    """Whether this process is one of several."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_all(tensor: Tensor) -> Sequence[Tensor]:
    """The tensors of this shape and type that the processes hold, by rank."""
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, tensor)
    return parts


def gather_for(
    model: nn.Module, gather: Callable[[Tensor], Sequence[Tensor]] | None = None
) -> Callable[[Tensor], Sequence[Tensor]] | None:
    """What gathers the gradients of a network: the user's own, else `gather_all`; None for one process, and
    for shards, whose gradients are those of all processes already."""
    return gather_all if gather is None and several() and not sharded(model) else gather


def of_all(value: Any) -> list[Any]:
    """Every process's value, by rank; plain values."""
    found = [value]
    if several():
        found = [None] * distributed.get_world_size()
        distributed.all_gather_object(found, value)
    return found


def check_alike(what: str, value: Any) -> None:
    """Raises ValueError, in every process, where they hold different plain values."""
    found = of_all(value)
    if any(other != found[0] for other in found):
        raise ValueError(
            f"the processes do not agree on {what}: give each as many batches, with labels of the same "
            "tasks, or gather=lambda tensor: [tensor] where each prunes a network of its own"
        )
