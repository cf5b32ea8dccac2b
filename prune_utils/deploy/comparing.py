"""How far outputs are from those that were expected, as a share of their range."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

LEVEL = 1e-6  # share of the largest value: a range below it is rounding


def differences(found: Any, expected: Any) -> list[float]:
    """Largest absolute difference of each output as a share of the expected one's range (max - min).

    found, expected: tensors in equal nested tuples, lists and dicts. Of an output without a range, such as a
    single number, a share of its largest absolute value. Infinities and what is no number count where the two
    disagree alone. Infinite for another shape, 0 for what holds no floating-point numbers. ValueError for
    another number of outputs.
    """
    ours, theirs = pytree.tree_leaves(found), pytree.tree_leaves(expected)
    if len(ours) != len(theirs):
        raise ValueError(f"there are {len(ours)} outputs instead of {len(theirs)}")
    return [_difference(*pair) for pair in zip(ours, theirs, strict=True)]


def worst_difference(found: Any, expected: Any) -> float:
    """The largest of them, 0 where there is no output; nan where one is."""
    return max(differences(found, expected), key=lambda off: (math.isnan(off), off), default=0.0)


def _difference(found: Any, expected: Any) -> float:
    if not isinstance(expected, Tensor) or not expected.is_floating_point() or not expected.numel():
        return 0.0
    if not isinstance(found, Tensor) or found.shape != expected.shape:
        return math.inf
    found, finite = found.to(expected.device, expected.dtype), expected.isfinite()
    if not torch.allclose(found[~finite], expected[~finite], rtol=0, atol=0, equal_nan=True):
        return math.nan
    found, expected = found[finite], expected[finite]
    if not expected.numel():
        return 0.0
    largest, scale = expected.abs().max(), expected.max() - expected.min()
    scale = scale if scale > LEVEL * largest else largest
    return float((found - expected).abs().max() / scale.clamp_min(1e-30))
