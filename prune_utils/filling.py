"""Densities from scores: a budget that begins at ERK and flows to the layers where the tasks' saliency lies.

A task's mass in a layer is the share of its whole score that lies there. A layer's mass is the largest of its
owners' (or as many owners must agree as the arbiter says), times their factors. Each layer keeps as many
weights as its mass says at one common level, at least half and at most twice what ERK gives it; the level is
where all together meet the budget exactly (water-filling, as for the power of parallel channels: Cover and
Thomas, "Elements of Information Theory", section 9.4). So no layer that ERK keeps alive is ever starved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from .arbiters import Arbiter
from .budgets import Budget, Pool, rounded
from .masks import Mask, Scores, count
from .ranking import check_scores

LEAST, MOST = 0.5, 2.0  # of what the budget gave a layer before
TINY = 1e-12  # mass of a layer that no task needs: it fills up after all others

Refill = Callable[[Budget, Mapping[str, Scores], Mask], Budget]
"""(budget, scores by voter and weight, candidates) -> a budget that keeps as many."""


def layer_masses(scores: Mapping[str, Scores], arbiter: Arbiter, among: Mask) -> dict[str, float]:
    """Every layer's mass in [0, 1] times a factor, of the candidates' scores.

    Raises ValueError for NaN, and for scores below 0, which have no shares.

    >>> import torch
    >>> from .arbiters import ARBITERS
    >>> scores = {"a": {"u": torch.tensor([1.0, 2.0]), "v": torch.tensor([1.0])}, "b": {"u": torch.ones(2)}}
    >>> everything = {"u": torch.ones(2, dtype=torch.bool), "v": torch.ones(1, dtype=torch.bool)}
    >>> layer_masses(scores, ARBITERS["unanimous"], everything)
    {'u': 1.0, 'v': 0.25}
    >>> layer_masses(scores, ARBITERS["intersection"], everything)
    {'u': 0.75, 'v': 0.25}
    """
    shares: dict[str, list[float]] = {}
    for voter, of in scores.items():
        check_scores(of, voter)
        masses = {}
        for name, score in of.items():
            there = score[among[name]].double()
            if there.numel() and there.min() < 0:
                raise ValueError(
                    "budget 'waterfill' needs scores of at least 0, choose a criterion without signs"
                )
            masses[name] = float(there.sum())
        whole = sum(masses.values())
        for name, mass in masses.items():
            shares.setdefault(name, []).append(arbiter.factor(voter) * mass / whole if whole else 0.0)
    return {name: sorted(of, reverse=True)[arbiter.votes(len(of)) - 1] for name, of in shares.items()}


def fill(masses: Sequence[float], least: Sequence[int], most: Sequence[int], total: int) -> list[float]:
    """min(max(level * mass, least), most) at the level where they add up to `total`.

    masses above 0; sum(least) <= total <= sum(most).

    >>> fill([0.5, 0.25, 0.25], least=[1, 1, 1], most=[3, 9, 9], total=8)
    [3.0, 2.5, 2.5]
    """

    layers = list(zip(masses, least, most, strict=True))

    def at(level: float) -> list[float]:
        return [float(min(max(level * mass, low), high)) for mass, low, high in layers]

    edges = {bound / mass for mass, *bounds in layers for bound in bounds}
    below = max((edge for edge in edges if sum(at(edge)) <= total), default=0.0)
    rising = sum(mass for mass, low, high in layers if low / mass <= below < high / mass)
    return at(below + (total - sum(at(below))) / rising if rising else below)


def waterfill(
    budget: Budget,
    scores: Mapping[str, Scores],
    among: Mask,
    *,
    arbiter: Arbiter,
    groups: Iterable[frozenset[str]],
) -> Budget:
    """The budget with the weights of each group's layers shared out by mass, in bounds of what it gave them.

    groups: names of layers that share what they have together; pools of several layers, and those of no
    group, stay as they are. A layer keeps no more than its candidates; where twice the budget's counts cannot
    be met for lack of them, the candidates alone bound a layer.
    """
    masses = layer_masses(scores, arbiter, among)
    sizes = {name: count({name: kept}) for name, kept in among.items()}
    found: dict[str, Pool] = {}
    for group in groups:
        pools = [pool for pool in budget if len(pool.names) == 1 and pool.names[0] in group]
        names, total = [pool.names[0] for pool in pools], sum(pool.keep for pool in pools)
        room = [sizes[name] for name in names]
        least = [min(math.ceil(LEAST * pool.keep), size) for pool, size in zip(pools, room, strict=True)]
        most = [min(int(MOST * pool.keep), size) for pool, size in zip(pools, room, strict=True)]
        if sum(most) < total:
            most = room
        weighed = [masses.get(name) or TINY for name in names]
        shares = dict(zip(names, fill(weighed, least, most, total), strict=True))
        found |= {pool.names[0]: pool for pool in rounded(shares, dict(zip(names, most, strict=True)), total)}
    return tuple(found.get(pool.names[0], pool) if len(pool.names) == 1 else pool for pool in budget)


REFILLS: dict[str, Callable[..., Budget]] = {"waterfill": waterfill}
"""Budgets that scores change, by the name that `budget=` takes."""
