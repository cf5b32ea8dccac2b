"""Rank fractions: scores made comparable between voters that own different numbers of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .masks import Mask, Scores


def check_scores(scores: Mapping[str, Tensor], voter: str = "") -> None:
    """Raises ValueError that names the first layer with a NaN."""
    for name, score in scores.items():
        # NaN makes the sum NaN, and so may infinities of both signs: ask every element before complaining
        if score.sum().isnan() and score.isnan().any():
            raise ValueError(f"scores of layer {name!r} hold NaN" + (f" (voter {voter!r})" if voter else ""))


def flatten(scores: Mapping[str, Tensor], names: list[str], among: Mask | None = None) -> Tensor:
    """Candidates' values as one vector: layers in the order of `names`, elements in row-major order; on the
    first one's device."""
    parts: list[Tensor] = []
    for name in names:
        flat = scores[name].reshape(-1)
        flat = flat if among is None else flat[among[name].reshape(-1)]
        parts.append(flat.to(parts[0].device) if parts else flat)
    return torch.cat(parts)


def descending(values: Tensor) -> Tensor:
    """Positions of a vector without NaN, largest value first, ties by position; int64.

    The values are read as whole numbers of the same order, which torch sorts by radix: on a processor, five
    times as fast as a stable sort of floats.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    # 0 - x turns the order around and -0, whose bits differ from 0's, into 0
    bits = (0 - values).view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    sign = bits >> 8 * bits.element_size() - 1  # 0, or -1: below 0, bits count the other way round
    return (bits ^ (sign & torch.iinfo(bits.dtype).max)).argsort(stable=True)


def smallest(values: Tensor, count: int) -> Tensor:
    """Bool, True at the `count` smallest of a vector, 0 <= count <= its length; ties by position."""
    if not 0 < count < len(values):
        return torch.full_like(values, count > 0, dtype=torch.bool)
    edge = values.kthvalue(count).values
    found, ties = values < edge, values == edge
    return found | (ties & (ties.cumsum(0) <= count - found.count_nonzero()))


def rank_fractions(scores: Scores, among: Mask | None = None) -> Scores:
    """rank / count in (0, 1], float64; the best candidate has 1 / count, the worst 1.

    scores: larger = better. Ties rank by position: layers in the dict's order, elements in row-major order.
    among: candidates (names of `scores` at least), None = all; a weight that is no candidate gets infinity.
    float64 because a voter owns up to 1e8 weights, and float32 tells only 1.6e7 ranks apart.
    Raises ValueError on NaN.

    >>> rank_fractions({"w": torch.tensor([0.1, 5.0, 0.1, 2.0])})["w"].tolist()
    [0.75, 0.25, 1.0, 0.5]
    """
    return _standings(scores, among, _ranks)


def share_fractions(scores: Scores, among: Mask | None = None) -> Scores:
    """Minus the share of a voter's whole score that it lacks before it takes each weight, best first.

    float64; the best candidate has -1, those that score 0 come last with 0. Arguments and ties are those of
    `rank_fractions`.
    Raises ValueError on NaN, and on scores below 0, which are no shares of anything.
    """
    return _standings(scores, among, _shares)


def _ranks(best_first: Tensor) -> Tensor:
    steps = torch.arange(1, len(best_first) + 1, dtype=torch.float64, device=best_first.device)
    return steps / max(len(best_first), 1)


def _shares(best_first: Tensor) -> Tensor:
    values = best_first.double()
    if len(values) and not values.is_meta and values[-1] < 0:
        raise ValueError("shares need scores of at least 0, choose a criterion without signs")
    # added up from the least: the next weight is never lost in a sum of at most len(values) smaller ones
    lacking = values.flip(0).cumsum(0).flip(0)
    return torch.where(lacking[:1] > 0, -lacking / lacking[:1], 0.0)


def _standings(scores: Scores, among: Mask | None, curve: Callable[[Tensor], Tensor]) -> Scores:
    """curve(the candidates' scores, best first) at the place of each candidate, infinity elsewhere."""
    check_scores(scores)
    if not scores:
        return {}
    values = flatten(scores, list(scores), among)
    order = descending(values)
    standings = torch.empty(len(values), dtype=torch.float64, device=values.device)
    standings[order] = curve(values[order])
    result, start = {}, 0
    for name, score in scores.items():
        standing = torch.full((score.numel(),), torch.inf, dtype=torch.float64, device=score.device)
        if among is None:
            stop = start + score.numel()
            standing.copy_(standings[start:stop])
        else:
            there = among[name].reshape(-1)
            stop = start + int(there.count_nonzero())
            standing[there] = standings[start:stop].to(score.device)
        result[name] = standing.reshape(score.shape)
        start = stop
    return result
