# PYTHON_ARGCOMPLETE_OK
"""Agreement of the tasks' own masks: what share of the weights that any task keeps do all of them keep.

agreement = |kept by all owners| / |kept by any owner|, the intersection over the union, for any number of
tasks. (The published code of DiSparse counts the weights kept by exactly two tasks, which is the same for two
tasks and wrong for more.) Counts add up over layers; nothing here knows what a backbone is.

python3 -m agreement.overlap ONE.pth TWO.pth compares the masks of two files: what a change of precision,
devices or seed does to a mask.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from torch import Tensor

from common.command_line import Parser
from common.text import table
from prune_utils.budgets import global_budget
from prune_utils.choosing import choose
from prune_utils.masks import Mask, Scores, mask_hash, size
from training.checkpoint import check_fields, is_own, read_file
from workflow import terminal

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
    return Overlap(
        by_all=sum(one.by_all for one in overlaps),
        by_any=sum(one.by_any for one in overlaps),
        chance_all=sum(one.chance_all for one in overlaps),
        chance_any=sum(one.chance_any for one in overlaps),
        owned=sum((one.owned for one in overlaps), Counter()),
        kept=sum((one.kept for one in overlaps), Counter()),
        kept_both=sum((one.kept_both for one in overlaps), Counter()),
        kept_either=sum((one.kept_either for one in overlaps), Counter()),
    )


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


# ------------------------------------------------------------------ two masks of files
def between(one: Mask, two: Mask) -> dict[str, float]:
    """Intersection over union of two masks: "all" and by part of the network (backbone, heads.seg, ...).

    ValueError where the masks are of different networks. Nothing kept on either side is full agreement.
    """
    parts: dict[str, list[Overlap]] = {}
    for name in one.keys() | two.keys():
        if name not in one or name not in two or one[name].shape != two[name].shape:
            raise ValueError(f"the masks are of different networks: they differ in layer {name}")
        part = ".".join(name.split(".")[: 1 if name.startswith("backbone") else 2])
        found = overlap({"one": one[name], "two": two[name]})
        for group in ("all", part):
            parts.setdefault(group, []).append(found)
    agreements = {group: together(of).agreement for group, of in sorted(parts.items())}
    return {group: 1.0 if value is None else value for group, value in agreements.items()}


def mask_of_file(path: str) -> Mask:
    """The mask in one of our network files; ValueError where there is none."""
    content = read_file(Path(path))
    if not is_own(content) or check_fields(content, Path(path))["mask"] is None:
        raise ValueError(
            f"{path} holds no mask: it takes a file of create_pruned_net.py or launch_training.py"
        )
    return content["mask"]


def main() -> None:
    parser = Parser(description="How far two masks agree.")
    parser.add_argument("one", metavar="ONE.pth", help="a sparse network of this program")
    parser.add_argument("two", metavar="TWO.pth", help="another of the same architecture")
    asked = parser.parse_args()
    one, two = mask_of_file(asked.one), mask_of_file(asked.two)
    rows = [(group, f"{value:.6f}") for group, value in between(one, two).items()]
    print(table(rows, ("kept weights", "intersection over union")))
    print("the masks are equal" if mask_hash(one) == mask_hash(two) else "the masks differ")


if __name__ == "__main__":
    terminal.run(main)
