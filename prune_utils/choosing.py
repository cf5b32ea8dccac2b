"""Choose: the one decision rule of every method.

Each voter ranks the weights that it owns. A weight's standing is the m-th smallest of its owners' rank
fractions: m = 1 keeps it if any owner wants it (unanimous pruning), m = all owners keeps it only if everybody
does. In each pool exactly `keep` weights with the smallest standing stay, ties by position. (DiSparse, Sun et
al., CVPR 2022, fixes a keep ratio per task instead and lands near the target: `keep_by_ratio`.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .arbiters import Arbiter, arbitrate, find_arbiter
from .bracket import ERRORS, Contest, choose_by_bracket
from .budgets import Budget, Pool
from .channelwise import Channelwise
from .granularity import WEIGHTS, Grain
from .masks import Mask, Scores
from .ranking import check_scores, flatten, rank_fractions, smallest

PLAIN = 100_000  # weights in a pool up to which everything is simply sorted


def choose(
    scores: Mapping[str, Scores],
    budget: Budget,
    arbiter: str | Arbiter,
    among: Mask | None = None,
    grain: Grain = WEIGHTS,
) -> Mask:
    """A mask over the budget's layers with exactly `keep` weights in each pool.

    scores: by voter and weight, larger = better; a voter owns the weights that it scores. Each voter ranks
        the weights that it owns inside the pool. arbiter: a name in ARBITERS, or one of your own.
    among: candidates, None = all weights; others are never kept. Needed (for its shapes) where the budget
        names a layer that no voter owns; such weights rank after all others.
    grain: what is kept or pruned together, and what it costs of `keep`. Units are ranked by the sums of their
        weights' scores, and the best stay that fit into `keep` one after the other: what is left over is less
        than the next unit. Where every part of a layer keeps the same number, that is the share of the pool.
    Ties fall to the earlier weight: layers in the pool's order, elements in row-major order.
    Raises ValueError: more to keep than candidates, a NaN score, a layer without scores, an unknown arbiter.

    >>> from prune_utils import Pool
    >>> one, other = torch.tensor([9.0, 1.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 9.0])
    >>> scores = {"a": {"w": one}, "b": {"w": other}}
    >>> choose(scores, (Pool(("w",), 2),), "unanimous")["w"].tolist()  # the favourite of each
    [True, False, False, True]
    >>> choose(scores, (Pool(("w",), 1),), "intersection")["w"].tolist()  # the second of both
    [False, False, True, False]
    """
    find_arbiter(arbiter)
    for voter, of in scores.items():
        check_scores(of, voter)
    if isinstance(grain, Channelwise):
        return _choose_channels(scores, budget, arbiter, among, grain)
    like, mask = _shapes(scores, budget, among), Mask()
    for pool in budget:
        inside = _on_one_device(pool, like, like)
        theirs = {voter: _on_one_device(pool, of, like) for voter, of in scores.items()}
        there = None if among is None else _on_one_device(pool, among, like)
        if not grain.granularity.whole:
            mask.update(_choose_in_parts(theirs, pool, arbiter, inside, there, grain))
        elif grain.plain:
            mask.update(_choose_in_pool(theirs, pool, arbiter, inside, there))
        else:
            mask.update(_choose_units(theirs, pool, arbiter, inside, there, grain))
    return {name: mask[name].to(like[name].device) for name in like if name in mask}


def _on_one_device(
    pool: Pool, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The tensors of the pool's layers, where the first of them is."""
    return {name: tensors[name].to(like[pool.names[0]].device) for name in pool.names if name in tensors}


def keep_by_ratio(
    scores: Mapping[str, Scores], keep_ratio: float, arbiter: str | Arbiter, among: Mask | None = None
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
        if not of:
            continue
        check_scores(of, voter)
        threshold = _threshold(flatten(of, list(of), among), keep_ratio, voter)
        for name, score in of.items():
            wanted = score >= threshold.to(score.device)
            wanted = wanted if among is None else wanted & among[name]
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
            f"{positive / len(values):.4g}, more batches, or a ratio, which breaks ties"
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
            raise ValueError(
                f"layer {name!r} is in the budget but no voter scores it: no task uses it, so leave it out "
                "of the budget (it stays dense; `owners_from_graph(...).shapes` has none), or pass `among`, "
                "a mask of candidates, to have it pruned before all others"
            )
        if among is not None and name not in among:
            raise ValueError(f"layer {name!r} is in the budget but not in `among`")
    if len(set(names)) < len(names):
        raise ValueError(f"layer {max(names, key=names.count)!r} is in the budget twice")
    return like


def _choose_units(
    scores: Mapping[str, Scores],
    pool: Pool,
    arbiter: str | Arbiter,
    like: Mapping[str, Tensor],
    among: Mask | None,
    grain: Grain,
) -> Mask:
    """The rule for units of several weights, or of other costs than 1."""
    theirs = {voter: grain.unit_scores(of) for voter, of in scores.items()}
    costs = grain.unit_costs({name: tensor.shape for name, tensor in like.items()})
    units = grain.units({name: torch.ones_like(of, dtype=torch.bool) for name, of in like.items()})
    free = None if among is None else grain.units({name: among[name] for name in like})
    kept = _choose_in_pool(theirs, pool, arbiter, units, free, costs)
    return grain.masked(kept, {name: tensor.shape for name, tensor in like.items()})


def _choose_channels(
    scores: Mapping[str, Scores],
    budget: Budget,
    arbiter: str | Arbiter,
    among: Mask | None,
    grain: Channelwise,
) -> Mask:
    """The rule for channels: the worst go until the rest costs no more than the one pool keeps."""
    (pool,) = budget
    tensors = [*(among or {}).values(), *(score for of in scores.values() for score in of.values())]
    device = tensors[0].device if tensors else None
    shapes = {name: grain.linked.shapes[name] for name in pool.names}
    everything = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    there = grain.units(everything if among is None else among)
    found = standings({voter: grain.unit_scores(of) for voter, of in scores.items()}, arbiter, there)
    return grain.masked(grain.best(found, pool.keep, there), shapes, device)


def _choose_in_parts(
    scores: Mapping[str, Scores],
    pool: Pool,
    arbiter: str | Arbiter,
    like: Mapping[str, Tensor],
    among: Mask | None,
    grain: Grain,
) -> Mask:
    """In every part of the pool's layers the same share: the weights with the smallest standing there.

    Voters rank over the whole pool, so that in each part those decide to whom it matters most.
    """
    found = standings(scores, arbiter, among)
    total = sum(tensor.numel() for tensor in like.values())
    mask: Mask = {}
    for name, tensor in like.items():
        each = pool.keep * grain.granularity.size(tensor.shape) // total
        standing = found.get(name, torch.zeros_like(tensor, dtype=torch.float64))
        if among is not None:
            standing = standing.masked_fill(~among[name], torch.inf)
        mask[name] = grain.best_of_parts(standing, each)
        if among is not None:
            mask[name] &= among[name]
    return mask


def _choose_in_pool(
    scores: Mapping[str, Scores],
    pool: Pool,
    arbiter: str | Arbiter,
    like: Mapping[str, Tensor],
    among: Mask | None,
    costs: Mapping[str, int] | None = None,
) -> Mask:
    """Exactly pool.keep of the pool's candidates. costs: of a candidate, by layer: as many as can be paid."""
    cost = dict.fromkeys(like, 1) if costs is None else costs
    owned = {name: tensor for name, tensor in like.items() if any(name in of for of in scores.values())}
    orphans = {name: tensor for name, tensor in like.items() if name not in owned}
    contest = Contest(scores, owned, pool.keep, arbiter, among)
    candidates = sum(cost[name] * contest.counts[name] for name in owned)
    if pool.keep < candidates:
        return _decide(contest, cost) | {
            name: torch.zeros_like(t, dtype=torch.bool) for name, t in orphans.items()
        }
    mask = {name: _everybody(tensor, name, among) for name, tensor in owned.items()}
    left, everybody = pool.keep - candidates, True
    for name, tensor in orphans.items():  # what nobody owns ranks after all others, by position
        flat = _everybody(tensor, name, among).reshape(-1)
        fits = flat.cumsum(0) <= left // cost[name]
        everybody &= bool(fits.all())
        flat &= fits
        left -= cost[name] * int(flat.count_nonzero())
        mask[name] = flat.reshape(tensor.shape)
    if left and everybody:
        layers = pool.names[0] if len(pool.names) == 1 else f"{pool.names[0]} ... {pool.names[-1]}"
        raise ValueError(
            f"{pool.keep} weights asked of pool {layers}, which has {pool.keep - left} candidates"
        )
    return mask


def _everybody(tensor: Tensor, name: str, among: Mask | None) -> Tensor:
    """All candidates of a layer, as a tensor of its own."""
    return torch.ones_like(tensor, dtype=torch.bool) if among is None else among[name].clone()


def standings(scores: Mapping[str, Scores], arbiter: str | Arbiter, among: Mask | None = None) -> Scores:
    """The owners' decision about everything that is scored, small = wanted: rank, arbitrate."""
    place = find_arbiter(arbiter).standings
    return arbitrate({voter: place(of, among) for voter, of in scores.items()}, arbiter)


def _decide(contest: Contest, costs: Mapping[str, int]) -> Mask:
    """Large pools by bracket, wider if need be; small ones, what is left, and what has several costs by
    sorting everything."""
    each = {costs[name] for name in contest.like}
    if len(each) > 1:
        return choose_by_sorting(contest, costs)
    cost = each.pop()
    contest = contest if cost == 1 else replace(contest, keep=contest.keep // cost)
    by_rank = find_arbiter(contest.arbiter).standings is rank_fractions  # what brackets know about
    if by_rank and sum(tensor.numel() for tensor in contest.like.values()) > PLAIN:
        for errors in (ERRORS, 8 * ERRORS):
            mask = choose_by_bracket(contest, errors)
            if mask is not None:
                return mask
    return choose_by_sorting(contest)


def choose_by_sorting(contest: Contest, costs: Mapping[str, int] | None = None) -> Mask:
    """The rule itself: rank, arbitrate, keep the smallest standings, ties by position.

    costs: of a candidate, by layer; contest.keep is then what may be spent, not a number of candidates.
    """
    flat = flatten(standings(contest.scores, contest.arbiter, contest.among), list(contest.like))
    keep = contest.keep if costs is None else _affordable(flat, contest, costs)
    parts = smallest(flat, keep).split([tensor.numel() for tensor in contest.like.values()])
    layers = zip(contest.like.items(), parts, strict=True)
    return {name: part.reshape(tensor.shape) for (name, tensor), part in layers}


def _affordable(standings: Tensor, contest: Contest, costs: Mapping[str, int]) -> int:
    """How many of the best can be kept, one after the other, until the next would cost too much."""
    prices = torch.cat(
        [torch.full((like.numel(),), costs[name], dtype=torch.int64) for name, like in contest.like.items()]
    ).to(standings.device)
    spent = prices[standings.argsort(stable=True)].cumsum(0)
    most = int((standings < torch.inf).count_nonzero())  # others are no candidates
    return min(most, int((spent <= contest.keep).count_nonzero()))
