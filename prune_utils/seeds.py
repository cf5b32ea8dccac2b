"""One seed from several parts, so that every use of chance has its own independent stream."""

from __future__ import annotations

import random

import torch


def mix_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part, e.g. (seed, batch number); the same on every machine."""
    return random.Random("/".join(str(part) for part in parts)).getrandbits(63)


def generator(*parts: int | str) -> torch.Generator:
    """A generator seeded by the parts. It draws in main memory: all devices see the same numbers."""
    return torch.Generator().manual_seed(mix_seed(*parts))
