"""A floor under every layer: what the rule of one pool would starve keeps a share, exactly in budget.

Scores that compare all layers with each other may leave none of a layer, and a task whose path leads through
an empty layer learns nothing. A layer below its floor becomes a pool of its own with exactly its floor, and
the others share what is left; where no layer is below, the choice is that without floors. (Layers that
collapse are described by Tanaka et al., NeurIPS 2020.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .arbiters import Arbiter
from .budgets import Budget, Pool
from .choosing import choose
from .granularity import WEIGHTS, Grain
from .masks import Mask, Scores


@dataclass(frozen=True)
class Floors:
    """What every layer keeps at least.

    least: parameter name -> weights. apart: layers that have a budget of their own and lend the others
    nothing (the trunk, where it has a share).
    """

    least: Mapping[str, int] = field(default_factory=dict)
    apart: frozenset[str] = frozenset()

    def of(self, name: str) -> int:
        """What this layer keeps at least."""
        return self.least.get(name, 0)


NO_FLOORS = Floors()


def check_floor(floor: float) -> None:
    """Raises ValueError unless the floor is a number from 0 to 1."""
    if isinstance(floor, bool) or not isinstance(floor, (int, float)) or not 0 <= floor <= 1:
        raise ValueError(f"floor {floor!r} is not a share of the overall density from 0 to 1")


def floor_counts(
    sizes: Mapping[str, int],
    budget: Budget,
    floor: float,
    names: Iterable[str],
    units: Mapping[str, int] | None = None,
    protected: Iterable[str] = (),
) -> dict[str, int]:
    """At least `floor` times the overall density of each of these layers, rounded up, and one weight; all of
    those that are protected.

    sizes: weights of every layer in the budget. floor: 0 = no floor at all. names: layers that need one,
    those that lead from an input to a task. units: weights of a unit by layer, to which floors are rounded
    up; None = 1. (Where a budget counts multiply-adds, all of these are in multiply-adds.)
    """
    total, keep = sum(sizes.values()), sum(pool.keep for pool in budget)
    if not floor or not total:
        return {}
    each = units or dict.fromkeys(sizes, 1)
    least = {name: max(1, math.ceil(floor * keep * sizes[name] / total)) for name in names if sizes[name]}
    found = {name: -(-count // each[name]) * each[name] for name, count in least.items()}
    return found | {name: sizes[name] for name in protected}


def choose_above(
    scores: Mapping[str, Scores],
    budget: Budget,
    arbiter: str | Arbiter,
    floors: Floors,
    among: Mask | None = None,
    grain: Grain = WEIGHTS,
) -> Mask:
    """`choose`, with at least as many weights (what they cost, where grain says so) in every layer as its
    floor asks for. Where every part of a layer keeps its share, no layer needs one. A pool that asks for more
    than its candidates cost keeps them all.

    Raises ValueError as `choose` does, and where the floors ask for more than the budget keeps.
    """
    if not grain.granularity.whole or grain.granularity.removes:
        return choose(scores, budget, arbiter, among, grain)
    pools = lifted(budget if among is None else _within(budget, among, grain), floors)
    while True:
        mask = choose(scores, pools, arbiter, among, grain)
        kept = {name: grain.cost({name: of}) for name, of in mask.items()}
        parted = tuple(part for pool in pools for part in _parted(pool, kept, floors))
        if len(parted) == len(pools):
            return mask
        pools = parted


def holds(budget: Budget, floors: Floors) -> bool:
    """Whether the budget keeps what the floors ask for."""
    try:
        lifted(budget, floors)
    except ValueError:
        return False
    return True


def _within(budget: Budget, among: Mask, grain: Grain) -> Budget:
    """The budget with no pool that keeps more than is left of it: what whole units or multiply-adds leave
    over of one budget may be more than the step to the next."""
    left = [{name: among[name] for name in pool.names if name in among} for pool in budget]
    return tuple(
        Pool(pool.names, min(pool.keep, grain.cost(of))) for pool, of in zip(budget, left, strict=True)
    )


def _parted(pool: Pool, kept: Mapping[str, int], floors: Floors) -> list[Pool]:
    """The pool without its layers that are below their floor, and these as pools of their own."""
    short = [name for name in pool.names if kept[name] < floors.of(name)] if len(pool.names) > 1 else []
    if not short:
        return [pool]
    left = pool.keep - sum(map(floors.of, short))
    rest = tuple(name for name in pool.names if name not in short)
    alone = [Pool((name,), floors.of(name)) for name in short]
    return [Pool(rest, left), *alone] if rest else alone


def lifted(budget: Budget, floors: Floors) -> Budget:
    """The budget with pools of one layer raised to their floor, at the cost of those beside them that keep
    most above their own.

    Raises ValueError where the floors ask for more than the budget keeps.
    """
    for pool in budget:
        if len(pool.names) > 1 and sum(map(floors.of, pool.names)) > pool.keep:
            _refuse(floors, pool.names, pool.keep)
    pools = list(budget)
    single = [place for place, pool in enumerate(pools) if len(pool.names) == 1]
    for inside in (True, False):
        part = [place for place in single if (pools[place].names[0] in floors.apart) is inside]
        for place, keep in zip(part, _raised([pools[place] for place in part], floors), strict=True):
            pools[place] = Pool(pools[place].names, keep)
    return tuple(pools)


def _raised(pools: Sequence[Pool], floors: Floors) -> list[int]:
    """What these pools of one layer keep, each at least its floor, together as much as before."""
    least = [floors.of(pool.names[0]) for pool in pools]
    keeps = [max(pool.keep, low) for pool, low in zip(pools, least, strict=True)]
    owed = sum(keeps) - sum(pool.keep for pool in pools)
    for place in sorted(range(len(pools)), key=lambda place: least[place] - keeps[place]):
        given = min(owed, keeps[place] - least[place])
        keeps[place] -= given
        owed -= given
    if owed:
        _refuse(floors, [pool.names[0] for pool in pools], sum(pool.keep for pool in pools))
    return keeps


def _refuse(floors: Floors, names: Iterable[str], keep: int) -> None:
    asked = sum(map(floors.of, names))
    raise ValueError(
        f"the floor asks for {asked} weights, more than the {keep} to keep: use a lower floor or ratio"
    )
