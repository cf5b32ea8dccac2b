"""Agreement of the tasks' own masks: what share of the weights that any task keeps do all of them keep.

agreement = |kept by all owners| / |kept by any owner|, the intersection over the union, for any number of
tasks. (The published code of DiSparse counts the weights kept by exactly two tasks, which is the same for two
tasks and wrong for more.) Counts add up over layers; nothing here knows what a backbone is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from torch import Tensor

from prune_utils.budgets import global_budget
from prune_utils.choosing import choose
from prune_utils.masks import Mask, Scores, size

Pair = tuple[str, str]


@dataclass(frozen=True)
class Overlap:
    """What some tasks keep of the weights that they share: counts in one layer, or in several together.

    kept: by task; kept_both, kept_either: by pair of tasks, in the order of `kept`. owned: weights of each
    task, the whole of what is counted. chance_all, chance_any: the counts to expect of `by_all` and `by_any`
    if each task had drawn its weights at random, as many as it keeps in each layer.
    """

    by_all: int
    by_any: int
    chance_all: float
    chance_any: float
    owned: Counter[str]
    kept: Counter[str]
    kept_both: Counter[Pair]
    kept_either: Counter[Pair]

    @property
    def agreement(self) -> float | None:
        """In [0, 1]; None where no task keeps a weight."""
        return ratio(self.by_all, self.by_any)

    @property
    def chance(self) -> float | None:
        """The agreement to expect of random masks with these densities."""
        return ratio(self.chance_all, self.chance_any)

    def density(self, task: str) -> float | None:
        """Share of the weights that the task keeps; None where it owns none."""
        return ratio(self.kept[task], self.owned[task])

    def matrix(self, tasks: Iterable[str]) -> list[list[float | None]]:
        """Pairwise agreement [T, T], symmetric; None where a pair shares nothing or keeps nothing."""
        tasks = list(tasks)
        return [[self._pair(one, other) for other in tasks] for one in tasks]

    def _pair(self, one: str, other: str) -> float | None:
        if one == other:
            return 1.0 if self.kept[one] else None
        pair = (one, other) if (one, other) in self.kept_either else (other, one)
        return ratio(self.kept_both[pair], self.kept_either[pair])


def ratio(part: float, whole: float) -> float | None:
    """part / whole, None for nothing of nothing."""
    return part / whole if whole else None


def overlap(masks: Mapping[str, Tensor]) -> Overlap:
    """Counts of one layer. masks: task -> bool tensor, one for each owner, all of one shape, True = kept.

    Raises ValueError without a mask, or for masks of unequal shape.
    """
    if not masks:
        raise ValueError("agreement needs the mask of at least one task")
    tasks, tensors = list(masks), list(masks.values())
    shapes = {task: tuple(mask.shape) for task, mask in masks.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"the tasks' masks of one layer have unequal shapes: {shapes}")
    every, some = tensors[0].clone(), tensors[0].clone()
    for tensor in tensors[1:]:
        every &= tensor
        some |= tensor
    total = tensors[0].numel()
    kept = Counter({task: int(mask.count_nonzero()) for task, mask in masks.items()})
    both = {pair: int((masks[pair[0]] & masks[pair[1]]).count_nonzero()) for pair in combinations(tasks, 2)}
    return Overlap(
        by_all=int(every.count_nonzero()),
        by_any=int(some.count_nonzero()),
        chance_all=total * math.prod(kept[task] / total for task in tasks),
        chance_any=total * (1 - math.prod(1 - kept[task] / total for task in tasks)),
        owned=Counter(dict.fromkeys(tasks, total)),
        kept=kept,
        kept_both=Counter(both),
        kept_either=Counter({(a, b): kept[a] + kept[b] - both[a, b] for a, b in both}),
    )


def together(overlaps: Iterable[Overlap]) -> Overlap:
    """The counts of several layers as one; a pair of tasks counts where both own the layer."""
    overlaps = list(overlaps)
    counters = {
        field: sum((getattr(one, field) for one in overlaps), Counter())
        for field in ("owned", "kept", "kept_both", "kept_either")
    }
    counts = {
        field: sum(getattr(one, field) for one in overlaps)
        for field in ("by_all", "by_any", "chance_all", "chance_any")
    }
    return Overlap(**counts, **counters)


def own_mask(scores: Scores, keep_ratio: float) -> Mask:
    """One task's own mask: its int(n * keep_ratio) best weights of the n that it scores, ties by position.

    Raises ValueError unless 0 < keep_ratio <= 1 keeps at least one weight.
    """
    if isinstance(keep_ratio, bool) or not isinstance(keep_ratio, int | float) or not 0 < keep_ratio <= 1:
        raise ValueError(f"keep ratio {keep_ratio!r} is not a fraction above 0 and up to 1")
    keep = int(size(scores) * keep_ratio)
    if not keep:
        raise ValueError(f"keep ratio {keep_ratio} leaves a task none of its {size(scores)} weights")
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    return choose({"own": scores}, global_budget(shapes, keep), "unanimous")


def layer_overlaps(masks: Mapping[str, Mask]) -> dict[str, Overlap]:
    """Overlap of every weight tensor that at least two tasks own, in the first task's order.

    masks: task -> its own mask, of the weights that it owns.
    """
    owners: dict[str, dict[str, Tensor]] = {}
    for task, mask in masks.items():
        for name, kept in mask.items():
            owners.setdefault(name, {})[task] = kept
    return {name: overlap(of) for name, of in owners.items() if len(of) > 1}
