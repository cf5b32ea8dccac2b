"""Weights that are divided by a norm of themselves: of such a slice something must stay.

weight_norm divides every slice of a weight by its length, spectral_norm the whole by its largest singular
value. A slice without any weight left is 0 / 0 in every forward pass; so where it is chosen which weights
stay, the best one of each slice ranks with the best of all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .parameters import Holder, held_parameters
from .roles import parametrizations

WHOLE = -1  # as torch says it: one slice, the whole weight


def divided(model: nn.Module) -> dict[str, int]:
    """Name of every weight that is divided by a norm of itself -> the axis whose indices are its slices."""
    found = {}
    for held in held_parameters(model):
        for holder in held.holders:
            axis = _axis(holder)
            if axis is not None:
                found.update(dict.fromkeys(held.names, axis))
    return found


def spare(
    model: nn.Module, scores: Mapping[str, dict[str, Tensor]], among: Mapping[str, Tensor] | None = None
) -> Mapping[str, dict[str, Tensor]]:
    """The scores of what shall stay, with the best candidate of every divided slice as good as the voter's
    best anywhere. Which one that is the owners decide together, by the sum of their scores in shares of the
    layer's largest.

    scores: by voter and weight. among: candidates, None = all.
    """
    axes = {name: axis for name, axis in divided(model).items() if any(name in of for of in scores.values())}
    if not axes or any(score.is_meta for of in scores.values() for score in of.values()):
        return scores
    lifted = {voter: dict(of) for voter, of in scores.items()}
    tops = {voter: max(float(score.max()) for score in of.values()) for voter, of in scores.items() if of}
    for name, axis in axes.items():
        theirs = [of[name].double() for of in scores.values() if name in of]
        together = torch.stack([score / score.abs().max().clamp_min(1e-300) for score in theirs]).sum(0)
        if among is not None:
            together = together.masked_fill(~among[name], -torch.inf)
        best = slices(together, axis).argmax(1, keepdim=True)
        for voter, of in lifted.items():
            if name in of:
                values = slices(of[name].clone(), axis).scatter(1, best, tops[voter])
                of[name] = _unsliced(values, of[name], axis)
    return lifted


def slices(values: Tensor, axis: int) -> Tensor:
    """[number of slices, weights of one]."""
    return values.reshape(1, -1) if axis == WHOLE else values.movedim(axis, 0).flatten(1)


def empty_slices(kept: Tensor, axis: int) -> int:
    """How many slices a mask leaves nothing of."""
    return int((~slices(kept, axis).any(1)).count_nonzero())


def number_of_slices(weight: Tensor, axis: int) -> int:
    return 1 if axis == WHOLE else weight.shape[axis]


def _unsliced(values: Tensor, like: Tensor, axis: int) -> Tensor:
    if axis == WHOLE:
        return values.reshape(like.shape)
    moved = like.movedim(axis, 0).shape
    return values.reshape(moved).movedim(0, axis).contiguous()


def _axis(holder: Holder) -> int | None:
    """The axis of a weight's slices, None for a parameter that no norm divides."""
    layer, attribute, form = holder.layer, holder.attribute, holder.form
    for step in parametrizations(layer, attribute):
        if isinstance(step, _WeightNorm) and form == "original1":
            return WHOLE if step.dim is None else step.dim
        if isinstance(step, _SpectralNorm) and form.startswith("original"):
            return WHOLE
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == attribute and form == "v":
            return WHOLE if hook.dim is None else hook.dim
        if isinstance(hook, SpectralNorm) and hook.name == attribute and form == "orig":
            return WHOLE
    return None
