"""Saliency of every weight for every voter: one forward pass per batch, one backward pass per voter.

The network is left as it was found: `.grad`, batch-norm statistics, modes, requires_grad and random streams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .criteria import find_criterion
from .isolation import seed_streams, untouched
from .masks import Scores, prunable
from .seeds import generator, mix_seed
from .voters import Batch, Gather, Voter


def score(
    model: nn.Module,
    voters: Sequence[Voter],
    batches: Iterable[tuple[int, Batch]],
    criterion: str,
    *,
    seed: int = 0,
    gather: Gather | None = None,
) -> dict[str, Scores]:
    """Scores by voter and weight, for the prunable weights that the voter owns; float32 or better.

    batches: (number, (input, targets)) pairs, e.g. `enumerate(loader)`. Dropout of a batch is seeded by
        (seed, number). Not read by criteria without gradients.
    criterion: a name in CRITERIA.
    gather: the gradients of all processes, given this one's, when several share the batches. If process r of
        n has the batches r, n + r, ..., the sums are those of one process alone, to the last bit.
    Raises ValueError: no batch, a gradient that is not finite (names voter, batch and layer), unknown
        criterion.
    """
    rule = find_criterion(criterion)
    weights = prunable(model)
    owned = {voter.name: [name for name in weights if name in voter.owns] for voter in voters}
    sums: dict[str, Scores] = {}
    if rule.needs_gradient:
        sums = _gradient_sums(model, voters, owned, batches, seed, gather)
    scores: dict[str, Scores] = {}
    with torch.no_grad():
        for voter in voters:
            chance = generator(seed, criterion, voter.name)
            gradients = sums.pop(voter.name, {})
            scores[voter.name] = {
                name: rule.saliency(weights[name].detach(), gradients.pop(name, None), chance)
                for name in owned[voter.name]
            }
    return scores


def _gradient_sums(
    model: nn.Module,
    voters: Sequence[Voter],
    owned: dict[str, list[str]],
    batches: Iterable[tuple[int, Batch]],
    seed: int,
    gather: Gather | None,
) -> dict[str, Scores]:
    """Per voter and owned weight: sum over the batches of |dL/dw|."""
    weights = prunable(model)
    # masks and scores of low-precision weights are still summed in float32
    sums = {
        voter: {name: torch.zeros_like(weights[name], dtype=_sum_dtype(weights[name])) for name in names}
        for voter, names in owned.items()
    }
    voters = [voter for voter in voters if owned[voter.name]]
    seen = 0
    with untouched(model, weights.values()):
        for number, (inputs, targets) in batches:
            seed_streams(model, mix_seed(seed, number))
            predictions = model(inputs)
            for left, voter in zip(reversed(range(len(voters))), voters, strict=True):
                leaves = [weights[name] for name in owned[voter.name]]
                loss = voter.loss(predictions, targets)
                if not loss.requires_grad:
                    raise ValueError(f"loss of voter {voter.name!r} depends on no weight of the network")
                gradients = torch.autograd.grad(loss, leaves, retain_graph=left > 0, allow_unused=True)
                _accumulate(sums[voter.name], gradients, gather, f"voter {voter.name!r}, batch {number}")
                del gradients, loss
            seen += 1
    if not seen:
        raise ValueError("scoring needs at least one batch, and there is none")
    return sums


def _accumulate(sums: Scores, gradients: Sequence[Tensor | None], gather: Gather | None, where: str) -> None:
    """Adds |gradient| to the sums, in their order; a weight that this batch did not use adds nothing."""
    finite = []
    for total, gradient in zip(sums.values(), gradients, strict=True):
        if gradient is not None:
            for each in [gradient] if gather is None else gather(gradient):
                total.add_(each.abs())  # signs must not cancel between batches
            finite.append((total, torch.isfinite(total.sum())))
    flags = [flag for _, flag in finite if not flag.is_meta]
    if (
        flags and not torch.stack([flag.to(flags[0].device) for flag in flags]).all()
    ):  # one wait for the device
        for name, total in sums.items():
            # the sum of finite values may still overflow: ask every element before complaining
            if not torch.isfinite(total).all():
                raise ValueError(f"gradient is not finite: {where}, layer {name!r}")


def _sum_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
