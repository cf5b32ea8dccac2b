"""Which elements of a tensor are kept, in few bytes: a bit for each, or a byte for each gap between them.

Gaps: the number of pruned elements before each kept one; 255 stands for 255 and "the gap goes on".
"""

from __future__ import annotations

import numpy as np

ESCAPE = 255


def to_bits(kept: np.ndarray) -> np.ndarray:
    """bool [n] -> uint8 [ceil(n / 8)], lowest bit first."""
    return np.packbits(kept, bitorder="little")


def from_bits(packed: np.ndarray, count: int) -> np.ndarray:
    """The inverse of to_bits for n = count; ValueError where the length does not fit."""
    if packed.size != -(-count // 8):
        raise ValueError(f"{packed.size} bytes of positions for {count} weights")
    return np.unpackbits(packed, count=count, bitorder="little").astype(bool)


def to_gaps(kept: np.ndarray) -> np.ndarray:
    """bool [n] -> uint8, a byte for each kept element and one more for every 255 pruned ones before it."""
    gaps = np.diff(np.flatnonzero(kept), prepend=-1) - 1
    ends = np.cumsum(gaps // ESCAPE + 1) - 1
    packed = np.full(ends[-1] + 1 if ends.size else 0, ESCAPE, dtype=np.uint8)
    packed[ends] = gaps % ESCAPE
    return packed


def from_gaps(packed: np.ndarray, count: int) -> np.ndarray:
    """The inverse of to_gaps for n = count; ValueError where a position lies outside."""
    ends = np.flatnonzero(packed != ESCAPE)
    positions = np.cumsum(packed, dtype=np.int64)[ends] + np.arange(ends.size)
    if positions.size and positions[-1] >= count:
        raise ValueError(f"position {positions[-1]} in a tensor of {count} weights")
    kept = np.zeros(count, dtype=bool)
    kept[positions] = True
    return kept


CODINGS = {"bits": (to_bits, from_bits), "gaps": (to_gaps, from_gaps)}


def shortest(kept: np.ndarray) -> tuple[str, np.ndarray]:
    """(coding, packed positions) in the fewest bytes."""
    packed = {name: pack(kept) for name, (pack, _) in CODINGS.items()}
    name = min(packed, key=lambda name: packed[name].size)
    return name, packed[name]
