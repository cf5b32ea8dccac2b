"""A training step: dense, masked (prune_utils.Masked), and with the hooks of torch.nn.utils.prune.

And the update of a dynamic mask (prune_utils.Regrowth) beside the plain way (benchmarks/plain.py), with what
it adds to a run that moves its mask every 50 steps. Full-size network of two tasks, 90 % sparse, Adam.

usage: python3 -m benchmarks.training [--rounds 3] [--steps 5] [--crop 64] [--batch 16] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from . import measure

CASE, RATIO, EVERY = "nyuv2", 90.0, 50


@dataclass(frozen=True)
class Size:
    """What is trained on."""

    crop: int
    batch: int
    steps: int
    threads: int


def start(size: Size):
    """A case on two batches, a random mask for it, and its optimiser."""
    import torch

    from prune_utils.methods import method
    from prune_utils.prune import make_mask, make_plan
    from training.loop import Plan, make_optimizer

    from .cases import make_case
    from .masks import settings

    torch.set_num_threads(size.threads)
    case = make_case(CASE, size.crop, size.batch, 2)
    mask = make_mask(case.network, make_plan(method("set"), settings()), case.electorate, [])
    plan = Plan(steps=1, lr=1e-3, weight_decay=5e-4, step_every=4000, step_factor=0.5)
    return case, mask, lambda: make_optimizer(case.network, plan)


def train(case, optimizer, sparsifier, steps: int, first: int = 1) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each step."""
    taken = []
    for step in range(first, first + steps):
        clock, (image, targets) = measure.Clock(), case.batches[step % 2]
        with clock("step"):
            optimizer.zero_grad(set_to_none=True)
            case.total(case.network(image), targets).backward()
            sparsifier.mask_gradients()
            optimizer.step()
            sparsifier.after_step(step, (image, targets))
        taken.append((clock.wall["step"], clock.cpu["step"]))
    return taken


def step_of(way: str, size: Size) -> dict[str, float]:
    """Medians of one way's steps; the first two are for warming up."""
    from prune_utils.masked import Masked
    from training.sparsifier import Dense

    from . import plain

    case, mask, make_optimizer = start(size)
    ways: dict[str, Callable] = {
        "dense": lambda: Dense(),
        "masked": lambda: Masked(case.network, mask),
        "hooks": lambda: plain.hook_mask(case.network, mask) or Dense(),
    }
    sparsifier = ways[way]()
    with measure.peak_memory() as peak:
        optimizer = make_optimizer()
        taken = train(case, optimizer, sparsifier, size.steps + 2)[2:]
    wall, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
    return {"wall s": wall, "CPU s": cpu, "peak MB": peak[0] / measure.MB}


def update_of(way: str, size: Size) -> dict[str, float]:
    """One static step and one update of the mask, each the median of three."""
    from prune_utils.methods import method
    from prune_utils.regrow import Growth, Regrowth, Schedule

    from . import plain

    case, mask, make_optimizer = start(size)
    clock, row = measure.Clock(), method("disparse_dynamic")
    if way == "ours":
        optimizer = make_optimizer()
        growth = Growth(case.electorate.voters(row.grow_voters), row.grow)
        sparsifier = Regrowth(case.network, mask, optimizer, Schedule(10**6, 10**5), growth)
        with measure.peak_memory() as peak:
            steps = train(case, optimizer, sparsifier, 5)[2:]
            for number in range(1, 4):
                with clock("update"):
                    sparsifier.after_step(number * 10**5, case.batches[0])
    else:
        from training.sparsifier import Dense

        plain.hook_mask(case.network, mask)
        with measure.peak_memory() as peak:
            steps = train(case, make_optimizer(), Dense(), 5)[2:]
            for _ in range(3):
                with clock("update"):
                    plain.regrow(case.network, case.electorate.losses, case.batches[0], 2, 0.5)
    wall, cpu = (statistics.median(column) for column in zip(*steps, strict=True))
    update, work = clock.wall["update"] / 3, clock.cpu["update"] / 3
    return {
        "step s": wall,
        "update s": update,
        "update CPU s": work,
        "peak MB": peak[0] / measure.MB,
        "run / static run": 1 + update / (EVERY * wall),
        "CPU run / static run": 1 + work / (EVERY * cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way (default 3)")
    parser.add_argument("--steps", type=int, default=5, help="steps measured in each (default 5)")
    parser.add_argument("--crop", type=int, default=64, help="side of the images (default 64)")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch (default 16)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    size = Size(asked.crop, asked.batch, asked.steps, asked.threads)
    measure.describe_machine(asked.threads)
    print(f"batches of {asked.batch} images of {asked.crop} x {asked.crop}\n")
    names = ("dense", "masked", "hooks")
    ways = {name: lambda name=name: measure.fresh(step_of, name, size) for name in names}
    found = measure.take_turns(ways, asked.rounds)
    measure.show(
        ["step", "wall s", "CPU s", "peak MB", "wall", "CPU", "peak"],
        [
            [name, *figures.values(), *(figures[key] / found["dense"][key] for key in figures)]
            for name, figures in found.items()
        ],
    )
    print("the last three columns are ratios to the dense step\n")
    ways = {name: lambda name=name: measure.fresh(update_of, name, size) for name in ("plain", "ours")}
    found = measure.take_turns(ways, asked.rounds)
    header = ["dynamic", *found["ours"]]
    measure.show(header, [[name, *figures.values()] for name, figures in found.items()])
    print(f"a run that moves its mask every {EVERY} steps, in shares of one that does not")


if __name__ == "__main__":
    main()
