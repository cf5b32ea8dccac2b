"""Choose: the one decision rule of every method.

Each voter ranks the weights that it owns. A weight's standing is the m-th smallest of its owners' rank
fractions: m = 1 keeps it if any owner wants it (unanimous pruning), m = all owners keeps it only if everybody
does. In each pool exactly `keep` weights with the smallest standing stay, ties by position. (DiSparse, Sun et
al., CVPR 2022, fixes a keep ratio per task instead and lands near the target: `keep_by_ratio`.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .budgets import Budget, Pool
from .masks import Mask, Scores
from .ranking import check_scores, flatten, rank_fractions

Arbiter = Callable[[int], int]  # number of owners -> keep-votes that a weight needs

ARBITERS: dict[str, Arbiter] = {
    "unanimous": lambda owners: 1,  # pruned only if every owner would prune it
    "majority": lambda owners: owners // 2 + 1,
    "intersection": lambda owners: owners,  # kept only if every owner would keep it
}


def find_arbiter(name: str) -> Arbiter:
    """The arbiter of that name. Raises ValueError with the choices."""
    if name not in ARBITERS:
        raise ValueError(f"arbiter {name!r} is not one of {', '.join(sorted(ARBITERS))}")
    return ARBITERS[name]


def arbitrate(ranks: Mapping[str, Scores], arbiter: str) -> Scores:
    """Per weight the m-th smallest rank over its owners, m = arbiter(owners); owners = voters that rank
    it."""
    needed = find_arbiter(arbiter)
    names = list(dict.fromkeys(name for of in ranks.values() for name in of))
    standings = {}
    for name in names:
        owners = [of[name] for of in ranks.values() if name in of]
        votes = needed(len(owners))
        standings[name] = owners[0] if len(owners) == 1 else torch.stack(owners).kthvalue(votes, dim=0).values
    return standings


def choose(scores: Mapping[str, Scores], budget: Budget, arbiter: str, among: Mask | None = None) -> Mask:
    """A mask over the budget's layers with exactly `keep` weights in each pool.

    scores: by voter and weight, larger = better; a voter owns the weights that it scores. Each voter ranks
        the weights that it owns inside the pool. arbiter: a name in ARBITERS.
    among: candidates, None = all weights; others are never kept. Needed (for its shapes) where the budget
        names a layer that no voter owns; such weights rank after all others.
    Ties fall to the earlier weight: layers in the pool's order, elements in row-major order.
    Raises ValueError: more to keep than candidates, a NaN score, a layer without scores, an unknown arbiter.
    """
    find_arbiter(arbiter)
    like = _shapes(scores, budget, among)
    for voter, of in scores.items():
        check_scores(of, voter)
    mask: Mask = {}
    for pool in budget:
        candidates = _candidates(pool, like, among)
        mask.update(_choose_in_pool(scores, pool, arbiter, candidates))
    return {name: mask[name] for name in like if name in mask}


def keep_by_ratio(
    scores: Mapping[str, Scores], keep_ratio: float, arbiter: str, among: Mask | None = None
) -> Mask:
    """The published rule: each voter keeps its int(n * keep_ratio) best weights, the arbiter decides.

    The threshold is inclusive, so ties of the last weight are kept too, and the overall ratio follows.
    Raises ValueError unless 0 < keep_ratio <= 1 keeps a weight, or when the threshold is 0, which keeps
        everything.
    """
    needed = find_arbiter(arbiter)
    if isinstance(keep_ratio, bool) or not isinstance(keep_ratio, (int, float)) or not 0 < keep_ratio <= 1:
        raise ValueError(f"keep ratio {keep_ratio!r} is not a fraction above 0 and up to 1")
    votes: dict[str, Tensor] = {}
    owners: dict[str, int] = {}
    for voter, of in scores.items():
        check_scores(of, voter)
        threshold = _threshold(flatten(of, list(of), among), keep_ratio, voter)
        for name, score in of.items():
            wanted = score >= threshold if among is None else (score >= threshold) & among[name]
            votes[name] = votes[name] + wanted if name in votes else wanted.to(torch.uint8)
            owners[name] = owners.get(name, 0) + 1
    return {name: wanted >= needed(owners[name]) for name, wanted in votes.items()}


def _threshold(values: Tensor, keep_ratio: float, voter: str) -> Tensor:
    """The int(n * keep_ratio)-th largest of n values."""
    keep = int(len(values) * keep_ratio)
    if keep == 0:
        raise ValueError(f"keep ratio {keep_ratio} leaves voter {voter!r} none of its {len(values)} weights")
    threshold = values.kthvalue(len(values) - keep + 1).values
    if keep < len(values) and threshold == 0 and values.min() == 0:
        positive = int((values > 0).count_nonzero())
        raise ValueError(
            f"keep ratio {keep_ratio} asks {keep} weights of voter {voter!r}, but only {positive} of "
            f"{len(values)} score above 0 and so all would stay: use a keep ratio below "
            f"{positive / len(values):.4g}, more batches, or --ratio, which breaks ties"
        )
    return threshold


def _shapes(scores: Mapping[str, Scores], budget: Budget, among: Mask | None) -> dict[str, Tensor]:
    """A tensor of every layer's shape, in the order of the scores (of `among`, if given)."""
    like: dict[str, Tensor] = dict(among or {})
    for of in scores.values():
        like |= {name: score for name, score in of.items() if name not in like}
    names = [name for pool in budget for name in pool.names]
    for name in names:
        if name not in like:
            raise ValueError(f"layer {name!r} is in the budget but no voter scores it: pass it in `among`")
        if among is not None and name not in among:
            raise ValueError(f"layer {name!r} is in the budget but not in `among`")
    if len(set(names)) < len(names):
        raise ValueError(f"layer {max(names, key=names.count)!r} is in the budget twice")
    return like


def _candidates(pool: Pool, like: Mapping[str, Tensor], among: Mask | None) -> Mask:
    if among is not None:
        candidates = {name: among[name] for name in pool.names}
    else:
        candidates = {name: torch.ones_like(like[name], dtype=torch.bool) for name in pool.names}
    there = sum(int(kept.count_nonzero()) for kept in candidates.values())
    if pool.keep > there:
        layers = pool.names[0] if len(pool.names) == 1 else f"{pool.names[0]} ... {pool.names[-1]}"
        raise ValueError(f"{pool.keep} weights asked of pool {layers}, which has {there} candidates")
    return candidates


def _choose_in_pool(scores: Mapping[str, Scores], pool: Pool, arbiter: str, candidates: Mask) -> Mask:
    """The rule itself: exactly pool.keep of the candidates."""
    ranks = {
        voter: rank_fractions({name: of[name] for name in pool.names if name in of}, candidates)
        for voter, of in scores.items()
    }
    standings = arbitrate(ranks, arbiter)
    for name in pool.names:
        if name not in standings:  # nobody owns it: behind every rank fraction, which end at 1
            standings[name] = torch.where(candidates[name], 2.0, torch.inf).double()
    flat = flatten(standings, list(pool.names))
    best = flat.argsort(stable=True)[: pool.keep]
    kept = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    kept[best] = True
    sizes = [candidates[name].numel() for name in pool.names]
    parts = zip(pool.names, kept.split(sizes), strict=True)
    return {name: part.reshape(candidates[name].shape) for name, part in parts}
