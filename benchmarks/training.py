"""A training step: dense, masked (prune_utils.Masked), and with the hooks of torch.nn.utils.prune.

And the update of a dynamic mask (prune_utils.Regrowth) beside the plain way (benchmarks/plain.py), with what
it adds to a run that moves its mask every 50 steps. Full-size network of two tasks, 90 % sparse, Adam.

The three steps take turns in one process, and each is divided by the dense step of its own turn: a hundredth
is less than what two processes differ by. Memory is looked at in processes of their own.

usage: python3 -m benchmarks.training [--steps 12] [--updates 3] [--rounds 2] [--crop 64] [--batch 16]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.command_line import Parser

from . import measure

if TYPE_CHECKING:  # torch is imported by the processes that measure
    import torch

    from training.sparsifier import Sparsifier

    from .cases import Case

CASE, EVERY = "nyuv2", 50
WAYS = ("dense", "masked", "hooks")
WARM_UP = 2  # steps that are not counted


@dataclass(frozen=True)
class Size:
    """What is trained on, and how often each thing is measured."""

    crop: int
    batch: int
    steps: int
    updates: int
    threads: int


@dataclass(frozen=True)
class Trainee:
    """A network with its mask, as one of WAYS holds it, and its optimiser."""

    case: Case
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier

    def step(self, number: int, clock: measure.Clock) -> None:
        """One step of training; the mask's own passes are also counted apart."""
        image, targets = batch = self.case.batches[number % 2]
        with clock("step"):
            self.optimizer.zero_grad(set_to_none=True)
            self.case.total(self.case.network(image), targets).backward()
            with clock("mask"):
                self.sparsifier.mask_gradients()
            self.optimizer.step()
            with clock("mask"):
                self.sparsifier.after_step(number, batch)


def make_trainee(way: str, size: Size) -> Trainee:
    """A case on two batches under a random mask. way: one of WAYS, or "moving" (Regrowth, by hand)."""
    import torch

    from prune_utils.masked import Masked
    from prune_utils.methods import method
    from prune_utils.plan import make_plan
    from prune_utils.prune import make_mask
    from prune_utils.regrow import Growth, Regrowth, Schedule
    from training.loop import Plan, make_optimizer
    from training.sparsifier import Dense

    from . import plain
    from .cases import make_case
    from .masks import settings

    torch.set_num_threads(size.threads)
    case = make_case(CASE, size.crop, size.batch, 2)
    mask = make_mask(case.network, make_plan(method("set"), settings()), case.electorate, [])
    if way == "hooks":
        plain.hook_mask(case.network, mask)  # renames the parameters: before the optimiser
    plan = Plan(steps=1, lr=1e-3, weight_decay=5e-4, step_every=4000, step_factor=0.5)
    optimizer, row = make_optimizer(case.network, plan), method("disparse_dynamic")
    sparsifiers: dict[str, Callable] = {
        "dense": Dense,
        "hooks": Dense,
        "masked": lambda: Masked(case.network, mask),
        "moving": lambda: Regrowth(
            case.network,
            mask,
            optimizer,
            Schedule(until=10**9, every=10**5),
            Growth(case.electorate.voters(row.grow_voters)),
        ),
    }
    return Trainee(case, optimizer, sparsifiers[way]())


def steps_in_turn(size: Size) -> dict[str, list[float]]:
    """Wall seconds of every way's steps, and of the mask's own passes in the masked ones."""
    trainees = {way: make_trainee(way, size) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in (*WAYS, "passes")}
    for number in range(1, WARM_UP + size.steps + 1):
        first = number % len(WAYS)
        for way in WAYS[first:] + WAYS[:first]:
            clock = measure.Clock()
            trainees[way].step(number, clock)
            if number > WARM_UP:
                seconds[way].append(clock.wall["step"])
                if way == "masked":
                    seconds["passes"].append(clock.wall["mask"])
    return seconds


def peak_of(way: str, size: Size) -> float:
    """MB in main memory at most, over three steps."""
    trainee = make_trainee(way, size)
    with measure.peak_memory() as peak:
        for number in range(1, 4):
            trainee.step(number, measure.Clock())
    return peak[0] / measure.MB


def updates_of(way: str, size: Size) -> dict[str, float]:
    """Medians of static steps and of updates of the mask, taken in turn; way: "plain" or "ours"."""
    from . import plain

    trainee = make_trainee("moving" if way == "ours" else "hooks", size)
    case, steps, updates = trainee.case, [], []
    with measure.peak_memory() as peak:
        for number in range(1, WARM_UP + size.updates + 1):
            clock = measure.Clock()
            trainee.step(number, clock)
            if number <= WARM_UP:
                continue
            with clock("update"):
                if way == "ours":
                    trainee.sparsifier.after_step(number * 10**5, case.batches[0])
                else:
                    plain.regrow(case.network, case.electorate.losses, case.batches[0], 2, 0.5)
            steps.append(clock.wall["step"])
            updates.append(clock.wall["update"])
    step, update = statistics.median(steps), statistics.median(updates)
    share = statistics.median(up / (EVERY * down) for up, down in zip(updates, steps, strict=True))
    return {
        "step s": step,
        "update s": update,
        "peak MB": peak[0] / measure.MB,
        "run / static run": 1 + share,
    }


def show_steps(size: Size) -> None:
    seconds = measure.fresh(steps_in_turn, size)
    peaks = {way: measure.fresh(peak_of, way, size) for way in WAYS}
    rows = []
    for way in WAYS:
        ratios = [own / dense for own, dense in zip(seconds[way], seconds["dense"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        step, peak = statistics.median(seconds[way]), peaks[way]
        rows.append([way, step, f"{middle:.3f}", f"{low:.3f} to {high:.3f}", peak, peak / peaks["dense"]])
    measure.show(["step", "wall s", "/ dense", "middle half", "peak MB", "/ dense"], rows)
    passes = statistics.median(seconds["passes"])
    share = statistics.median(p / d for p, d in zip(seconds["passes"], seconds["dense"], strict=True))
    print(f"the mask's own passes: {1000 * passes:.0f} ms a step, {100 * share:.2f} % of the dense step\n")


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="steps of each way (at least 2)")
    parser.add_argument("--updates", type=int, default=3, help="updates of a moving mask")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each moving mask")
    parser.add_argument("--crop", type=int, default=64, help="side of the images")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    size = Size(asked.crop, asked.batch, asked.steps, asked.updates, asked.threads)
    measure.describe_machine(asked.threads)
    print(f"batches of {asked.batch} images of {asked.crop} x {asked.crop}\n")
    show_steps(size)
    ways = {way: lambda way=way: measure.fresh(updates_of, way, size) for way in ("plain", "ours")}
    found = measure.take_turns(ways, asked.rounds)
    rows = [[way, *list(of.values())[:-1], f"{of['run / static run']:.3f}"] for way, of in found.items()]
    measure.show(["dynamic", *found["ours"]], rows)
    print(f"a run that moves its mask every {EVERY} steps, in shares of one that does not")


if __name__ == "__main__":
    main()
