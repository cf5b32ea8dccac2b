"""Choosing among a billion weights of two tasks: seconds and memory of prune_utils.choose, nothing else.

Made-up scores as wide as real ones (log-normal) of a network of equal layers: most of it shared, a head for
each task. `--disk FOLDER` keeps the scores as memory maps there; their pages, which the system can take back,
count once, as the scores' size. `--dtype bfloat16` halves the scores; "differs" then says what share of the
kept weights is another than with float32 (up to CHECKED weights, where both fit).

usage: python3 -m benchmarks.billion [--weights 1e9] [--dtype float32|bfloat16] [--disk FOLDER] [--threads N]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.command_line import Parser

from . import measure

RATIO, LAYER, CHECKED = 90.0, 10_000_000, 100_000_000
HEADS = 0.1  # share of the weights that one task alone owns, each


def one(weights: int, dtype_name: str, disk: str | None, threads: int) -> dict[str, float]:
    """Seconds of one choice, peak memory with the scores in shares of the scores' size, kept weights."""
    import torch

    from prune_utils.budgets import global_budget, keep_count
    from prune_utils.choosing import choose
    from prune_utils.masks import count, size

    torch.set_num_threads(threads)
    dtype = getattr(torch, dtype_name)
    scores, shapes = made_up(weights, dtype, disk)
    budget = global_budget(shapes, keep_count(sum(shape[0] for shape in shapes.values()), RATIO))
    held = sum(dtype.itemsize * size(of) for of in scores.values())
    look = measure.anonymous if disk else measure.resident
    clock, before = measure.Clock(), look()
    with measure.peak_memory(look=look) as peak, clock("all"):
        mask = choose(scores, budget, "unanimous")
    found = {
        "wall s": clock.wall["all"],
        "CPU s": clock.cpu["all"],
        "scores GB": held / 1e9,
        "memory": 1 + (peak[0] - before) / held,
        "kept": float(count(mask)),
    }
    if dtype != torch.float32 and weights <= CHECKED:
        exact = choose(made_up(weights, torch.float32)[0], budget, "unanimous")
        changed = sum(int((mask[name] & ~exact[name]).count_nonzero()) for name in mask)
        found["differs"] = changed / count(mask)
    return found


def made_up(
    weights: int, dtype: Any, disk: str | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, tuple[int, ...]]]:
    """Scores of two tasks that agree in part on what they share, and the layers' shapes. disk: each layer is
    kept there as soon as it is made."""
    import torch

    from prune_utils.storing import stored

    shapes: dict[str, tuple[int, ...]] = {}
    scores: dict[str, dict[str, Any]] = {"left": {}, "right": {}}
    draws = torch.Generator().manual_seed(2)
    groups = {"shared": ("left", "right"), "left": ("left",), "right": ("right",)}
    for group, tasks in groups.items():
        left = round(weights * (1 - 2 * HEADS if group == "shared" else HEADS))
        while left > 0:
            name, shape = f"{group}.{len(shapes)}", (min(LAYER, left),)
            shapes[name], left = shape, left - shape[0]
            common = torch.randn(shape, generator=draws)
            for task in tasks:
                own = torch.randn(shape, generator=draws)
                made = {name: own.add_(common).mul_(2).exp_().to(dtype)}
                scores[task] |= stored(made, Path(disk) / task / name) if disk else made
    return scores, shapes


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=float, default=1e9, help="number of weights")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the scores")
    parser.add_argument("--disk", metavar="FOLDER", help="keep the scores there, as memory maps")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    measure.describe_machine(asked.threads)
    found = measure.fresh(one, int(asked.weights), asked.dtype, asked.disk, asked.threads)
    measure.show(list(found), [list(found.values())])


if __name__ == "__main__":
    main()
