"""Forward and backward of a network in training, recorded as CUDA graphs and replayed.

A small network keeps a GPU waiting for Python, which starts every kernel by itself; a graph starts them all
at once. Recorded before a loader's threads live, because nothing else may touch the device meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]
Predictions = dict[str, Tensor]


class Recorded:
    """The network as a function from images to predictions, for steps of which each goes backward once.

    Its parameters may change their values, but not their place in memory.
    """

    def __init__(self, network: nn.Module, images: Iterable[Tensor]) -> None:
        """images: one of every shape that will come, on the network's device, which is a GPU."""
        self._of: dict[Shape, _Forward] = {}
        for image in images:
            if image.shape not in self._of:
                self._of[image.shape] = _record(network, image)

    def __call__(self, image: Tensor) -> Predictions:
        """The predictions of one of the shapes; they are overwritten by the next call of that shape."""
        return cast(Predictions, self._of[image.shape](image))


class _Forward(nn.Module):
    """Stands for the network, whose own `forward` must stay what it is."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Predictions:
        return cast(Predictions, self.network(image))


def _record(network: nn.Module, image: Tensor) -> _Forward:
    """The network's buffers and the random stream are afterwards what they were."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    network.train()
    with torch.random.fork_rng([image.device]):
        recorded = torch.cuda.make_graphed_callables(_Forward(network), (image,))
    with torch.no_grad():
        for buffer, value in buffers:
            buffer.copy_(value)
    return cast(_Forward, recorded)
