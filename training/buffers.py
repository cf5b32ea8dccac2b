"""A network's buffers, the statistics of its norms above all, kept while something looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def same_buffers(network: nn.Module) -> Iterator[None]:
    """Afterwards the network's buffers are what they were before, in the same place in memory."""
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
