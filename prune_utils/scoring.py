"""Saliency of every weight for every voter: one forward pass per batch, one backward pass per voter.

The network is left as it was found: `.grad`, batch-norm statistics, modes, requires_grad and random streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .criteria import find_criterion
from .isolation import seed_streams, untouched
from .masks import Scores, prunable
from .measures import Survey
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
    if rule.measure is not None:
        survey = Survey(
            model,
            voters,
            batches,
            lambda voters, what: _gradient_sums(model, voters, owned, batches, what, seed, gather),
        )
        sums = rule.measure(survey)
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
    what: Callable[[Tensor], Tensor],
    seed: int,
    gather: Gather | None,
) -> dict[str, Scores]:
    """Per voter and owned weight: sum over the batches of what(dL/dw), such as |dL/dw|."""
    weights = prunable(model)
    sums: dict[str, Scores] = {voter: {} for voter in owned}
    voters = [voter for voter in voters if owned[voter.name]]
    seen = 0
    with untouched(model, weights.values()):
        for number, (inputs, targets) in batches:
            seed_streams(model, mix_seed(seed, number))
            losses = _losses(voters, model(inputs), targets)
            for left, voter in zip(reversed(range(len(voters))), voters, strict=True):
                leaves = {name: weights[name] for name in owned[voter.name]}
                with _adding(sums[voter.name], leaves, what, gather):
                    # the list held the last reference: what no later voter needs goes with its loss;
                    # not backward(), which would write `.grad`
                    torch.autograd.grad(
                        losses.pop(0), list(leaves.values()), retain_graph=left > 0, allow_unused=True
                    )
                _require_finite(sums[voter.name], leaves, f"voter {voter.name!r}, batch {number}")
            seen += 1
    if not seen:
        raise ValueError("scoring needs at least one batch, and there is none")
    return {
        voter: {
            name: of.pop(name).contiguous() if name in of else _zeros(weights[name]) for name in owned[voter]
        }
        for voter, of in sums.items()
    }


def _losses(voters: Sequence[Voter], predictions: Any, targets: Any) -> list[Tensor]:
    """Every voter's loss. Raises ValueError, naming the voter, for one that no weight can change."""
    losses = [voter.loss(predictions, targets) for voter in voters]
    for voter, loss in zip(voters, losses, strict=True):
        if not loss.requires_grad:
            raise ValueError(f"loss of voter {voter.name!r} depends on no weight of the network")
    return losses


@contextmanager
def _adding(
    sums: Scores, leaves: dict[str, Tensor], what: Callable[[Tensor], Tensor], gather: Gather | None
) -> Iterator[None]:
    """Inside, a backward pass adds what(gradient) to the sums as soon as it is known, and holds none.

    A weight that the pass does not reach adds nothing.
    """

    def add(name: str, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:  # of a function that passes none on
            return None
        for each in [gradient] if gather is None else gather(gradient):
            _add(sums, name, what(each))
        # what autograd keeps in the gradient's place: its shape, without its memory
        return gradient.new_zeros(()).expand_as(gradient)

    handles = [leaf.register_hook(partial(add, name)) for name, leaf in leaves.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_finite(sums: Scores, names: Iterable[str], where: str) -> None:
    """Raises ValueError that tells the first of the names whose sum is not finite."""
    flags = [torch.isfinite(total.sum()) for total in sums.values() if not total.is_meta]
    # one wait for the device
    if flags and not torch.stack([flag.to(flags[0].device) for flag in flags]).all():
        for name in names:
            # the sum of finite values may still overflow: ask every element before complaining
            if name in sums and not torch.isfinite(sums[name]).all():
                raise ValueError(f"gradient is not finite: {where}, layer {name!r}")


def _add(sums: Scores, name: str, part: Tensor) -> None:
    """sums[name] += part, a tensor of its own."""
    if name not in sums:
        # low-precision gradients are summed in float32; memory order stays the gradient's until all are added
        sums[name] = part.to(_sum_dtype(part))
    else:
        sums[name].add_(part)


def _zeros(weight: Tensor) -> Tensor:
    return torch.zeros_like(weight, dtype=_sum_dtype(weight), memory_format=torch.contiguous_format)


def _sum_dtype(weight: Tensor) -> torch.dtype:
    return torch.promote_types(weight.dtype, torch.float32)
