"""Arbiters: from the owners' rankings of a weight to one standing. To add one: a line in ARBITERS.

Each voter puts a standing on every weight that it owns, small = wanted; the m-th smallest of the owners'
standings is the weight's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .masks import Mask, Scores
from .ranking import rank_fractions, share_fractions
from .text import not_one_of

Standings = Callable[[Scores, Mask | None], Scores]


@dataclass(frozen=True)
class Arbiter:
    """How the owners of a weight come to one standing.

    votes: number of owners -> keep-votes that a weight needs. standings: scores of one voter and its
    candidates -> its standings. factors: voter -> a > 0, 1 where it is missing; its standings are divided by
    it, so that a voter of factor 2 keeps about twice as much of what it wants. name: what certificates call
    one that is not registered.
    """

    votes: Callable[[int], int]
    standings: Standings = rank_fractions
    factors: Mapping[str, float] = field(default_factory=dict)
    name: str = "own"

    def __post_init__(self) -> None:
        if self.factors and self.standings is not rank_fractions:
            raise ValueError("factors divide rank fractions, not other standings")
        for voter, factor in self.factors.items():
            if not isinstance(factor, int | float) or not 0 < factor < float("inf"):
                raise ValueError(f"factor {factor!r} of voter {voter!r} is not above 0 and finite")

    def __call__(self, owners: int) -> int:
        return self.votes(owners)

    def factor(self, voter: str) -> float:
        """What the standings of a voter are divided by, above 0."""
        return self.factors.get(voter, 1.0)


def weighted(factors: Mapping[str, float]) -> Arbiter:
    """Unanimous, with each voter's rank fraction divided by its own factor before the minimum over owners.

    Equal factors are the unanimous arbiter. Raises ValueError for a factor that is not above 0.
    """
    return Arbiter(lambda owners: 1, factors=dict(factors), name="weighted")


ARBITERS: dict[str, Arbiter] = {
    "unanimous": Arbiter(lambda owners: 1),  # pruned only if every owner would prune it
    "majority": Arbiter(lambda owners: owners // 2 + 1),
    "intersection": Arbiter(lambda owners: owners),  # kept only if every owner would keep it
    "weighted": weighted({}),  # unanimous, until factors are given
    # the next weight goes to the voter that has taken the smallest share of its total score, in the spirit of
    # FairGRAPE (Lin, Kim, Joo, ECCV 2022); what others take for it is not held against it
    "share": Arbiter(lambda owners: 1, share_fractions),
}
"""Arbiters by the name that `arbiter=` takes."""


def find_arbiter(arbiter: str | Arbiter) -> Arbiter:
    """The arbiter of that name, or the one that is given. Raises ValueError with the choices."""
    if isinstance(arbiter, Arbiter):
        return arbiter
    if arbiter not in ARBITERS:
        raise ValueError(not_one_of("arbiter", arbiter, sorted(ARBITERS)))
    return ARBITERS[arbiter]


def arbiter_name(arbiter: str | Arbiter) -> str:
    """What it is registered as, or calls itself."""
    if isinstance(arbiter, str):
        return arbiter
    return next((name for name, known in ARBITERS.items() if known is arbiter), arbiter.name)


def arbitrate(standings: Mapping[str, Scores], arbiter: str | Arbiter) -> Scores:
    """Per weight the m-th smallest standing over its owners, each divided by its voter's factor; m =
    votes(owners).

    standings: by voter and weight; the owners of a weight are the voters that have one for it.
    """
    rule = find_arbiter(arbiter)
    found = {}
    for name in dict.fromkeys(name for of in standings.values() for name in of):
        owners = [_divided(of[name], rule.factor(voter)) for voter, of in standings.items() if name in of]
        votes = rule.votes(len(owners))
        found[name] = owners[0] if len(owners) == 1 else torch.stack(owners).kthvalue(votes, dim=0).values
    return found


def _divided(standing: Tensor, factor: float) -> Tensor:
    return standing if factor == 1 else standing / factor
