"""Budgets: how many weights each pool of layers keeps. One pool = global, one per layer = ERK or uniform.

ERK is the Erdos-Renyi-Kernel rule of Evci et al., "Rigging the Lottery", ICML 2020, with the power 0.9 of
DiSparse. Every budget adds up to its `keep` exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal

from .text import not_one_of

ERK_POWER = 0.9

# parameter name -> shape; a roles.Shape knows the matrices that it stacks, a plain tuple is one
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Pool:
    """Layers whose weights compete with each other; exactly `keep` of them stay."""

    names: tuple[str, ...]
    keep: int


Budget = tuple[Pool, ...]
"""Pools that hold every considered layer once; their `keep` add up to the weights that stay."""


def check_ratio(ratio: float) -> Decimal:
    """The ratio (percent of weights removed) exactly as written; ValueError unless 0 <= ratio < 100."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio < 100:
        raise ValueError(
            f"ratio {ratio!r} is not a number from 0 up to, not including, 100 (percent removed)"
        )
    return Decimal(str(ratio))


def keep_count(total: int, ratio: float) -> int:
    """round((1 - ratio / 100) * total), halves to even, in decimal arithmetic: 92.5 and 99.9 are exact.

    ratio: percent, 0 <= ratio < 100. Raises ValueError for another ratio, or one that leaves no weight.

    >>> keep_count(1000, 92.5), keep_count(15, 90), keep_count(25, 90)
    (75, 2, 2)
    >>> keep_count(5, 90)
    Traceback (most recent call last):
    ValueError: ratio 90 leaves none of 5 weights
    """
    exact = Decimal(total) * (100 - check_ratio(ratio)) / 100
    keep = int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))
    if keep == 0:
        raise ValueError(f"ratio {ratio} leaves none of {total} weights")
    return keep


def global_budget(shapes: Shapes, keep: int) -> Budget:
    """One pool: any layer may end up with any density.

    >>> global_budget({"a": (2, 3), "b": (4,)}, keep=5)
    (Pool(names=('a', 'b'), keep=5),)
    """
    return (Pool(tuple(shapes), keep),)


def uniform_budget(shapes: Shapes, keep: int) -> Budget:
    """One pool per layer, all with the same density to one weight.

    >>> uniform_budget({"a": (2, 3), "b": (4,)}, keep=5)
    (Pool(names=('a',), keep=3), Pool(names=('b',), keep=2))
    """
    sizes = _sizes(shapes)
    total = sum(sizes.values())
    return rounded({name: keep * size / total for name, size in sizes.items()}, sizes, keep)


def erk_budget(shapes: Shapes, keep: int) -> Budget:
    """One pool per layer, density proportional to (sum(matrix) / prod(matrix)) ** 0.9.

    The matrix is the weight's shape, of a weight that stacks several (LSTM gates, an attention's in_proj,
    fused experts) the shape of one of them (roles.Shape): each then gets the density that it has alone.
    Layers that would exceed density 1 are dense and the others share what is left.

    >>> [pool.keep for pool in erk_budget({"wide": (100, 100), "narrow": (10, 10)}, keep=1000)]
    [926, 74]
    """
    sizes = _sizes(shapes)
    matrices = {name: getattr(shape, "matrix", shape) for name, shape in shapes.items()}
    # of a layer without elements nothing is kept, whatever its density
    raw = {name: (sum(of) / max(math.prod(of), 1)) ** ERK_POWER for name, of in matrices.items()}
    dense: set[str] = set()
    while True:
        left = keep - sum(sizes[name] for name in dense)
        base = sum(raw[name] * sizes[name] for name in sizes if name not in dense)
        scale = left / base if base else 0.0
        full = {name for name in sizes if name not in dense and scale * raw[name] > 1}
        if not full:
            break
        # filling a layer raises the scale of the others, so a full layer never has to be reopened
        dense |= full
    shares = {name: sizes[name] if name in dense else scale * raw[name] * sizes[name] for name in sizes}
    return rounded(shares, sizes, keep)


BUDGETS: dict[str, Callable[[Shapes, int], Budget]] = {
    "global": global_budget,
    "erk": erk_budget,
    "uniform": uniform_budget,
    "waterfill": erk_budget,  # where it begins; scores change it (filling.py)
}
"""Budgets by the name that `budget=` takes: (shapes, weights to keep) -> `Budget`."""


def make_budget(kind: str, shapes: Shapes, keep: int, protected: frozenset[str] = frozenset()) -> Budget:
    """A budget of exactly `keep` weights over all layers of `shapes`.

    kind: a name in BUDGETS. protected: layers that stay dense; they count in the total and in `keep`.
    Raises ValueError for an unknown kind, a keep above the total, or below the protected layers' size, and
        for a registered budget that does not hold every layer once or does not add up.
    """
    if kind not in BUDGETS:
        raise ValueError(not_one_of("budget", kind, sorted(BUDGETS)))
    sizes = _sizes(shapes)
    total, dense = sum(sizes.values()), sum(sizes[name] for name in sizes if name in protected)
    if keep > total:
        raise ValueError(f"keep {keep} is more than the {total} weights there are")
    if keep < dense:
        raise ValueError(
            f"the protected layers hold {dense} weights, more than the {keep} of {total} to keep"
        )
    free = {name: shape for name, shape in shapes.items() if name not in protected}
    if dense == total and keep == total:
        return (Pool(tuple(shapes), keep),)
    budget = BUDGETS[kind](free, keep - dense)
    _check_pools(kind, budget, free, keep - dense)
    if not dense:
        return budget
    return (Pool(tuple(name for name in shapes if name in protected), dense), *budget)


def _check_pools(kind: str, budget: Budget, shapes: Shapes, keep: int) -> None:
    named = Counter(name for pool in budget for name in pool.names)
    for name in [*shapes, *named]:
        if name not in shapes:
            raise ValueError(f"budget {kind!r} names layer {name!r}, which is none of its {len(shapes)}")
        if named[name] != 1:
            raise ValueError(
                f"budget {kind!r} names layer {name!r} {named[name]} times in its pools, not once"
            )
    kept = sum(pool.keep for pool in budget)
    if kept != keep:
        raise ValueError(f"budget {kind!r} keeps {kept} weights in its pools, and is asked for {keep}")


def split_budget(
    kind: str, shapes: Shapes, keep: int, protected: frozenset[str], trunk: frozenset[str], share: float
) -> Budget:
    """Two budgets of one kind: `share` of `keep` for the layers in `trunk`, rounded, the rest for others.

    As near to the share as sizes and protected layers allow: of nearly everything no part keeps a fifth.
    Raises ValueError where one of the parts has no layer, and as `make_budget` does.
    """
    parts = [{name: shapes[name] for name in shapes if (name in trunk) is inside} for inside in (True, False)]
    for part, whose in zip(parts, ("several tasks", "one task alone"), strict=True):
        if not part:
            raise ValueError(
                f"trunk share {share:g} needs layers of several tasks and of one: none is of {whose}"
            )
    sizes = [_sizes(part) for part in parts]
    whole = [sum(of.values()) for of in sizes]
    dense = [sum(size for name, size in of.items() if name in protected) for of in sizes]
    first = min(round(share * keep), whole[0], keep - dense[1])
    first = max(first, dense[0], keep - whole[1])
    first_budget = make_budget(kind, parts[0], first, protected & set(parts[0]))
    return (*first_budget, *make_budget(kind, parts[1], keep - first, protected & set(parts[1])))


def _sizes(shapes: Shapes) -> dict[str, int]:
    return {name: math.prod(shape) for name, shape in shapes.items()}


def rounded(shares: Mapping[str, float], sizes: Mapping[str, int], keep: int) -> Budget:
    """One pool per layer: the shares rounded by largest remainder, so that they add up to `keep`.

    sizes: what a layer keeps at most. Raises ValueError where that does not reach `keep`.
    """
    total = sum(sizes.values())
    if not 0 <= keep <= total:
        raise ValueError(f"keep {keep} is not from 0 to the {total} weights there are")
    # a share that arithmetic put a hair above a whole number must not be lost to the sum
    counts = {name: min(sizes[name], math.floor(share * (1 - 1e-12))) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: counts[name] - shares[name])
    left = keep - sum(counts.values())
    while left > 0:
        for name in by_remainder:
            if left > 0 and counts[name] < sizes[name]:
                counts[name] += 1
                left -= 1
    return tuple(Pool((name,), count) for name, count in counts.items())
