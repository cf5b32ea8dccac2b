"""How far outputs are from those that were expected, as a share of their range."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


def differences(found: Any, expected: Any) -> list[float]:
    """Largest absolute difference of each output as a share of the expected one's range (max - min).

    found, expected: tensors in equal nested tuples, lists and dicts. 0 for what holds no floating-point
    numbers.
    """
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    return [_difference(ours, theirs) for ours, theirs in pairs]


def worst_difference(found: Any, expected: Any) -> float:
    """The largest of them, 0 where there is no output; nan where one is."""
    return max(differences(found, expected), key=lambda off: (math.isnan(off), off), default=0.0)


def _difference(found: Any, expected: Any) -> float:
    if not isinstance(expected, Tensor) or not expected.is_floating_point() or not expected.numel():
        return 0.0
    scale = (expected.max() - expected.min()).clamp_min(1e-30)
    return float((found.to(expected.device, expected.dtype) - expected).abs().max() / scale)
