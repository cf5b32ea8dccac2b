"""Networks whose parameters are sharded over processes (FSDP2's `fully_shard`: each is a DTensor).

What a process holds of a mask, of gradients and of optimiser state is its shard; whole tensors exist where
something is decided or written: scores and masks while weights are chosen, a layer at a time elsewhere. All
processes decide alike, so everything here must be called by all of them. Left out: other ways of sharding
(FSDP1's flat parameters).
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn


def is_shard(tensor: Any) -> TypeGuard[Any]:
    """Whether this process holds only a part of the tensor."""
    return hasattr(tensor, "full_tensor")


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: the same memory; of an ordinary tensor all."""
    return tensor.to_local() if is_shard(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, in every process; an ordinary tensor as it is."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def part_like(values: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, sharded as `like` is, on its device."""
    return part(shared_out(values, like))


def shared_out(values: Tensor, like: Tensor) -> Tensor:
    """A whole tensor sharded as `like` is, on its device; an ordinary tensor as it is."""
    if not is_shard(like):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values.to(like.device), like.device_mesh, like.placements)


def whole_like(values: Tensor, like: Tensor) -> Tensor:
    """All of a tensor of which every process holds its part, sharded as `like` is."""
    if not is_shard(like):
        return values
    from torch.distributed.tensor import DTensor

    made = DTensor.from_local(
        values, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return made.full_tensor()


def sharded(model: nn.Module) -> bool:
    """Whether parameters of the network are sharded."""
    return any(is_shard(weight) for weight in model.parameters()) or any(
        hasattr(module, "reshard") for module in model.modules()
    )


def settle(model: nn.Module) -> None:
    """Every parameter is its shard again: a forward pass without a backward pass leaves some gathered."""
    for module in model.modules():
        reshard: Any = getattr(module, "reshard", None)
        if reshard is not None:
            reshard()


def writes() -> bool:
    """Whether this process is the one that writes files for all."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
