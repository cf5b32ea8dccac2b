"""Weights that are divided by a norm of themselves: of such a slice something must stay.

weight_norm divides every slice of a weight by its length, spectral_norm the whole by its largest singular
value. A slice without any weight left is 0 / 0 in every forward pass; so where it is chosen which weights
stay, the best one of each slice ranks with the best of all; of units of several weights, the whole unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .granularity import WEIGHTS, Grain
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
    model: nn.Module,
    scores: Mapping[str, dict[str, Tensor]],
    among: Mapping[str, Tensor] | None = None,
    grain: Grain = WEIGHTS,
) -> Mapping[str, dict[str, Tensor]]:
    """The scores of what shall stay, with the best candidate of every divided slice as good as the voter's
    best anywhere. Which one that is the owners decide together, by the sum of their scores in shares of the
    layer's largest.

    scores: by voter and weight. among: candidates, None = all; what it does not name always stays. grain:
    what is kept or pruned together.
    """
    axes = {
        name: axis
        for name, axis in divided(model).items()
        if any(name in of for of in scores.values()) and (among is None or name in among)
    }
    if not axes or any(score.is_meta for of in scores.values() for score in of.values()):
        return scores
    lifted = {voter: dict(of) for voter, of in scores.items()}
    units = not (grain.singles or grain.granularity.removes)
    tops = {
        voter: max(float(score.max()) for score in (grain.unit_scores(of) if units else of).values())
        for voter, of in scores.items()
        if of
    }
    for name, axis in axes.items():
        theirs = [of[name].double() for of in scores.values() if name in of]
        together = torch.stack([score / score.abs().max().clamp_min(1e-300) for score in theirs]).sum(0)
        if among is not None:
            together = together.masked_fill(~among[name], -torch.inf)
        if units:  # every weight of a unit stands for all of it
            (together,) = grain.unit_scores({name: together}).values()
            together = grain.spread(together, theirs[0].shape)
        best = slices(together, axis).argmax(1, keepdim=True)
        chosen = _unsliced(
            slices(torch.zeros_like(together, dtype=torch.bool), axis).scatter(1, best, True), together, axis
        )
        if units:
            chosen = grain.spread(grain.granularity.parts(chosen).any(-1), chosen.shape)
        for voter, of in lifted.items():
            if name in of:
                # of several weights, each of which is lifted so far, the sum is no less
                of[name] = of[name].masked_fill(chosen, max(tops[voter], 0.0) if units else tops[voter])
    return lifted


def keep_slices(kept: Tensor, weights: Tensor, axis: int, lots: Tensor) -> Tensor:
    """The units that are kept, with one by lot of every slice that has none, for as many others by lot.

    kept: units (bool). weights: of a layer, the place of its unit. lots: a number for every unit, all
    different. Where every slice has one, all stay as they are.
    """
    flat = kept.reshape(-1)
    order = lots + len(flat) * ~flat
    theirs = slices(weights, axis)
    firsts = theirs.gather(1, order[theirs].argmin(1, keepdim=True))
    best = order.index_fill(0, firsts.reshape(-1), -1).argsort(stable=True)[: int(flat.count_nonzero())]
    return torch.zeros_like(flat).index_fill(0, best, True).reshape(kept.shape)


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
