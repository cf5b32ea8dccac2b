"""Ranking and choosing alone, on scores of the full-size networks: two tasks and five.

Ours (prune_utils.choose) beside sorting every weight (the same rule, the same mask) and beside the plain
way's thresholds per task, which meet no exact number. Memory is what each needs on top of the scores. Below
the table: what share of a scoring run the choice is, from the time of one batch at the paper's crop.

usage: python3 -m benchmarks.choosing [--rounds 3] [--case nyuv2] [--threads N]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from common.command_line import Parser

from . import measure

if TYPE_CHECKING:  # torch is imported by the processes that measure
    from torch import Tensor

    from prune_utils.budgets import Budget
    from prune_utils.masks import Mask

    TaskScores = dict[str, dict[str, Tensor]]

RATIO = 90.0
CROPS, BATCH, RUN = {"nyuv2": 321, "taskonomy": 224}, 2, 50  # of the paper, but for the batch
WAYS = ("thresholds", "sorting", "ours")


def one(way: str, case_name: str, threads: int) -> dict[str, float]:
    """Seconds of one choice, memory on top of the scores in shares of their size, kept weights."""
    import torch

    from prune_utils.budgets import global_budget, keep_count
    from prune_utils.masks import count, size

    torch.set_num_threads(threads)
    scores, shapes = made_up_scores(case_name)
    budget = global_budget(shapes, keep_count(sum(map(_numel, shapes.values())), RATIO))
    held = sum(4 * size(of) for of in scores.values())
    clock, before = measure.Clock(), measure.resident()
    with measure.peak_memory() as peak, clock("all"):
        mask = _ways()[way](scores, budget)
    return {
        "wall s": clock.wall["all"],
        "CPU s": clock.cpu["all"],
        "memory": (peak[0] - before) / held,
        "kept": float(count(mask)),
    }


def batch_seconds(case_name: str, threads: int) -> dict[str, float]:
    """Seconds of scoring one batch; the first one warms up."""
    import torch

    from prune_utils.scoring import score

    from .cases import make_case

    torch.set_num_threads(threads)
    case, clock = make_case(case_name, CROPS[case_name], BATCH, 2), measure.Clock()
    voters = case.electorate.voters("tasks")
    for number, batch in enumerate(case.batches):
        with clock(str(number)):
            score(case.network, voters, [(number, batch)], "snip")
    return {"s": clock.wall["1"]}


def _numel(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


def _ways() -> dict[str, Callable]:
    from prune_utils import choosing
    from prune_utils.choosing import choose

    from . import plain

    def sorting(scores: TaskScores, budget: Budget) -> Mask:
        before, choosing.PLAIN = choosing.PLAIN, 2**62
        try:
            return choose(scores, budget, "unanimous")
        finally:
            choosing.PLAIN = before

    def thresholds(scores: TaskScores, budget: Budget) -> Mask:
        merged: Mask = {}
        for of in plain.choose(scores, 0.08).values():
            for name, wanted in of.items():
                merged[name] = merged[name] | wanted if name in merged else wanted
        return merged

    return {
        "ours": lambda scores, budget: choose(scores, budget, "unanimous"),
        "sorting": sorting,
        "thresholds": thresholds,
    }


def made_up_scores(case_name: str) -> tuple[TaskScores, dict[str, tuple[int, ...]]]:
    """Scores as wide as real ones (log-normal), of the real layers; tasks agree in part on the backbone."""
    import torch

    from prune_utils.masks import prunable

    from .cases import make_case

    case = make_case(case_name, crop=8, batch=1, count=0)
    weights, owners = prunable(case.network), case.network.owners()
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    del case, weights
    generator = torch.Generator().manual_seed(2)
    common = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    scores: TaskScores = {task: {} for task in sorted(set().union(*owners.values()))}
    for name in shapes:
        for task in sorted(owners[name]):
            own = torch.randn(shapes[name], generator=generator)
            scores[task][name] = own.add_(common[name]).mul_(2).exp_()
        del common[name]
    return scores, shapes


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="choices of each way")
    parser.add_argument("--case", choices=("nyuv2", "taskonomy"), help="one network (default: both)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    measure.describe_machine(asked.threads)
    rows, notes = [], []
    for case in [asked.case] if asked.case else ("nyuv2", "taskonomy"):
        ways = {way: partial(measure.fresh, one, way, case, asked.threads) for way in WAYS}
        ways["batch"] = partial(measure.fresh, batch_seconds, case, asked.threads)
        found = measure.take_turns(ways, asked.rounds)
        batch = found.pop("batch")["s"]
        for way, figures in found.items():
            rows.append([case, way, *list(figures.values())[:-1], int(figures["kept"])])
        share = found["ours"]["wall s"] / (RUN * batch)
        notes.append(
            f"{case}: a batch of {BATCH} images of {CROPS[case]} x {CROPS[case]} is scored in {batch:.1f} s; "
            f"ours is {100 * share:.2f} % of {RUN} such batches"
        )
    measure.show(["network", "way", "wall s", "CPU s", "memory / scores", "kept"], rows)
    print("\n".join(notes))


if __name__ == "__main__":
    main()
