"""Arbiters: from the owners' rankings of a weight to one standing. To add one: a line in ARBITERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from .masks import Scores

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
    """Per weight the m-th smallest rank over its owners, m = arbiter(owners).

    ranks: by voter and weight; the owners of a weight are the voters that rank it.
    """
    needed = find_arbiter(arbiter)
    standings = {}
    for name in dict.fromkeys(name for of in ranks.values() for name in of):
        owners = [of[name] for of in ranks.values() if name in of]
        votes = needed(len(owners))
        standings[name] = owners[0] if len(owners) == 1 else torch.stack(owners).kthvalue(votes, dim=0).values
    return standings
