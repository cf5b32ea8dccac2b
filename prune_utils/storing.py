"""Scores on disk: memory maps that are read like tensors and need no memory that the system cannot take back.

`choose` reads scores once, in order, so that maps cost it little. bfloat16 halves them, and its eight bits
of precision make ties, which fall to the earlier weight: near the boundary the mask is
another than that of float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from .masks import Scores


def stored(scores: Mapping[str, Tensor], folder: Path, dtype: torch.dtype | None = None) -> Scores:
    """The same scores as memory maps, one file a weight, in `folder`, which is made; each is let go once it
    is written, if the caller holds it nowhere else.

    scores: emptied, so that only one tensor at a time is in memory twice. dtype: None = as they are.
    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: Scores = {}
    for number, name in enumerate(list(scores)):
        score = scores.pop(name) if isinstance(scores, dict) else scores[name]
        kind = dtype or score.dtype
        path = folder / f"{number}.scores"
        path.unlink(missing_ok=True)  # a map of an earlier call may still be read
        mapped = torch.from_file(str(path), shared=True, size=score.numel(), dtype=kind)
        mapped.copy_(score.detach().reshape(-1))
        found[name] = mapped.reshape(score.shape)
    return found
