"""What is wrong with a tensor that was read from a file. It is checked before anything computes with it.

Fast kernels trust the shapes and types of what they are given, and a NaN or an infinity in a weight shows
up in a score, if at all. Leaves out where a tensor comes from: callers put file and name before the words.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flaw(value: object, like: Tensor) -> str:
    """What keeps `value` from taking the place of `like`, such as "has shape (3,), ..."; "" for nothing.

    Any floating type stands for any other, any whole one too; bool stands for itself alone.
    """
    plain = not_plain(value)
    if plain or not isinstance(value, Tensor):
        return plain
    if value.shape != like.shape:
        return f"has shape {tuple(value.shape)}, the network's is {tuple(like.shape)}"
    if _kind(value) != _kind(like):
        return f"holds {_kind(value)} where {_kind(like)} belong"
    if not like.is_floating_point():
        return ""
    return "" if bool(value.isfinite().all()) else "holds NaN or infinite numbers"


def mask_flaw(value: object, like: Tensor) -> str:
    """What keeps `value` from being the mask of the weight `like`; "" for nothing."""
    plain = not_plain(value)
    if plain or not isinstance(value, Tensor):
        return plain
    if value.shape != like.shape:
        return f"has shape {tuple(value.shape)}, the weight's is {tuple(like.shape)}"
    return "" if value.dtype == torch.bool else f"holds {_kind(value)} where true and false belong"


def not_plain(value: object) -> str:
    """What keeps a value from being a dense tensor with numbers in it; "" for nothing."""
    if not isinstance(value, Tensor):
        return f"is a {type(value).__name__}, not a tensor"
    if value.is_meta:
        return "has a shape and no numbers (a meta tensor)"
    if value.is_quantized:
        return "is quantised"
    return "" if value.layout == torch.strided else f"is stored as {str(value.layout).removeprefix('torch.')}"


def _kind(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "true and false"
    if value.is_complex():
        return "complex numbers"
    return "numbers with a fraction" if value.is_floating_point() else "whole numbers"
