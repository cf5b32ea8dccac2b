"""The decision rule once more, as obviously as possible: Python lists, fractions, loops and sorting.

A network is a dict layer -> number of weights; scores are dict voter -> layer -> list of numbers.
"""

from __future__ import annotations

from fractions import Fraction

import torch

NEEDED = {
    "unanimous": lambda owners: 1,
    "majority": lambda owners: owners // 2 + 1,
    "intersection": lambda owners: owners,
    "share": lambda owners: 1,
    "weighted": lambda owners: 1,
}


def lists(scores):
    """Tensors to lists, so that nothing below can lean on the code under test."""
    return {voter: {name: t.reshape(-1).tolist() for name, t in of.items()} for voter, of in scores.items()}


def ranks(of, layers, among):
    """(layer, element) -> rank fraction of one voter's candidates in these layers."""
    mine = [(name, i) for name in layers if name in of for i in range(len(of[name])) if among(name, i)]
    best_first = sorted(mine, key=lambda w: -of[w[0]][w[1]])  # stable: ties stay by position
    return {weight: Fraction(place + 1, len(mine)) for place, weight in enumerate(best_first)}


def shares(of, layers, among):
    """(layer, element) -> share of its whole score that one voter holds before it takes the weight."""
    best_first = list(ranks(of, layers, among))
    total, held, found = sum(Fraction(of[name][i]) for name, i in best_first), Fraction(0), {}
    for name, i in best_first:
        found[name, i] = held / total if total else Fraction(1)
        held += Fraction(of[name][i])
    return found


def choose(scores, pools, arbiter, sizes, among=lambda name, i: True):
    """The set of kept (layer, element); pools: list of (layers, keep)."""
    kept = set()
    for layers, keep in pools:
        places = shares if arbiter == "share" else ranks
        votes = [places(of, layers, among) for of in scores.values()]
        standing = {}
        for name in layers:
            for i in range(sizes[name]):
                if among(name, i):
                    wishes = sorted(vote[name, i] for vote in votes if (name, i) in vote)
                    standing[name, i] = wishes[NEEDED[arbiter](len(wishes)) - 1] if wishes else Fraction(2)
        assert keep <= len(standing)
        kept |= set(sorted(standing, key=standing.get)[:keep])  # stable again
    return kept


def as_set(mask):
    return {
        (name, i) for name, kept in mask.items() for i in torch.nonzero(kept.reshape(-1)).flatten().tolist()
    }
