"""What makes several processes, or several parts of a batch, train like one process with the whole batch.

Losses are means over valid pixels, and parts do not have equally many: each part counts for its share. Batch
norm takes its statistics over all processes. What stays different: every process draws its own dropout, parts
of an accumulated batch have their own batch statistics, and sums are taken in another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from tasks.base import Target, resize_nearest

Batch = tuple[Tensor, dict[str, Target]]


def parts(batch: Batch, count: int) -> list[Batch]:
    """A batch cut into at most `count` parts of nearly equal size along its first axis."""
    image, targets = batch
    cuts = range(min(count, len(image)))
    images = image.tensor_split(len(cuts))
    pieces = {
        name: list(
            zip(target.value.tensor_split(len(cuts)), target.valid.tensor_split(len(cuts)), strict=True)
        )
        for name, target in targets.items()
    }
    return [(images[i], {name: Target(*piece[i]) for name, piece in pieces.items()}) for i in cuts]


def valid_shares(fabric: Fabric, targets: Sequence[Target], size: tuple[int, int]) -> Tensor:
    """What the mean loss over each part's valid pixels counts for, [parts].

    targets: of one task, by part; size: (h, w) of the predictions. The mean over processes of the sum over
    parts of share * loss is the mean loss over the valid pixels of all. Without any, every share is 0.
    """
    counts = torch.stack([resize_nearest(target.valid, size).sum() for target in targets])
    if len(counts) == fabric.world_size == 1:
        return (counts > 0).to(torch.get_default_dtype())
    total = counts.sum()
    if fabric.world_size > 1:
        total = cast(Tensor, fabric.all_reduce(total, reduce_op="sum"))
    return counts * fabric.world_size / total.clamp(min=1)


class _Sum(torch.autograd.Function):
    """The sum over all processes, of values and of gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        distributed.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        distributed.all_reduce(gradient)
        return gradient


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all processes' images [N, C, H, W] together.

    For devices that nn.SyncBatchNorm does not know, main memory above all.
    """

    def forward(self, image: Tensor) -> Tensor:
        if not self.training:
            return super().forward(image)
        x = image.to(torch.promote_types(image.dtype, torch.float32))
        count = x.new_tensor(x.numel() / x.shape[1])
        total = _Sum.apply(torch.cat([x.sum((0, 2, 3)), count[None]]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            cast(Tensor, self.num_batches_tracked).add_(1)
            momentum = cast(float, self.momentum)
            cast(Tensor, self.running_mean).lerp_(mean, momentum)
            cast(Tensor, self.running_var).lerp_(variance * count / (count - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(image.dtype)


@contextmanager
def shared_statistics(network: nn.Module, fabric: Fabric) -> Iterator[None]:
    """Inside, batch norm in training looks at all processes' images. Nothing changes for one process."""
    if fabric.world_size == 1:
        yield
        return
    if fabric.device.type != "cpu":  # the faster way, which main memory has not
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        yield
        return
    norms = [module for module in network.modules() if type(module) is nn.BatchNorm2d]
    for module in norms:
        module.__class__ = SharedBatchNorm2d
    try:
        yield
    finally:
        for module in norms:
            module.__class__ = nn.BatchNorm2d
