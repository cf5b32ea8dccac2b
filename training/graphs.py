"""Forward and backward of a network in training, recorded as CUDA graphs and replayed.

A small network keeps a GPU waiting for Python, which starts every kernel by itself; a graph starts them all
at once. Recorded before a loader's threads live, because nothing else may touch the device meanwhile.
"""

from __future__ import annotations

import gc
from typing import cast

import torch
from torch import Tensor, nn

from .buffers import same_buffers

Predictions = dict[str, Tensor]


class Recorded(nn.Module):
    """The network as a function of an image batch, for steps that go through it once, there and back.

    Parameters may change their values, but not their place in memory. Predictions and gradients are
    overwritten by the next pass: gradients of several cannot be added up.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Predictions:
        return cast(Predictions, self.network(image))


def record(network: nn.Module, image: Tensor) -> Recorded:
    """image: a batch of the one shape that will come, on the network's device, which is a GPU.

    The network's buffers and the random stream are afterwards what they were.
    """
    gc.collect()  # of earlier networks: a recorded module refers to itself, and holds memory of its own
    network.train()
    with same_buffers(network), torch.random.fork_rng([image.device]):
        return cast(Recorded, torch.cuda.make_graphed_callables(Recorded(network), (image,)))
