"""How time and memory grow: scoring with the tasks, choosing with the weights, loading with the workers.

Writes one plot each, with the slope that is expected drawn beside what was measured.

usage: python3 -m benchmarks.growth [--rounds 3] [--only tasks|weights|workers] [--folder docs/images]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.command_line import Parser
from common.figures import COLOURS, new_figure, plain_axes

from . import measure

ROOT = Path(__file__).resolve().parents[1]
TASKS = (1, 2, 3, 4, 6, 8)
WEIGHTS = (1, 3, 10, 30, 100, 200)  # million
WORKERS = (0, 1, 2, 4)
WIDTH, IMAGES, BATCHES, WARM_UP = 0.5, 60, 100, 20


@dataclass(frozen=True)
class Subject:
    """One plot: x values, what is measured at each, and the slope to expect of it."""

    what: str
    xlabel: str
    at: Sequence[int]
    point: Callable[[int, int], dict[str, float]]
    expected: Callable[[Sequence[float], Sequence[float]], list[float]]
    expectation: str
    log: bool = False


def tasks_point(count: int, threads: int) -> dict[str, float]:
    """Scoring one batch of 4 images of 128 x 128 with `count` tasks, half width."""
    import torch

    from prune_utils.scoring import score

    from .cases import many_tasks

    torch.set_num_threads(threads)
    case = many_tasks(count, crop=128, batch=4, width=WIDTH)
    voters, clock = case.electorate.voters("tasks"), measure.Clock()
    before = measure.resident()
    with measure.peak_memory() as peak:  # the first time: later, freed memory is used again
        score(case.network, voters, [(0, case.batches[0])], "snip")
    with clock("all"):
        score(case.network, voters, [(0, case.batches[0])], "snip")
    return {"s": clock.wall["all"], "CPU s": clock.cpu["all"], "MB": (peak[0] - before) / measure.MB}


def weights_point(million: int, threads: int) -> dict[str, float]:
    """Choosing 10 % of so many weights, two tasks, a third of the weights shared, 20 layers."""
    import torch

    from prune_utils.budgets import global_budget
    from prune_utils.choosing import choose

    torch.set_num_threads(threads)
    chance, shape = torch.Generator().manual_seed(0), (million * 1000, 50)
    owners = {f"layer{number}": ("a", "b", "ab")[number % 3] for number in range(20)}
    scores = {
        task: {name: torch.rand(shape, generator=chance) for name, who in owners.items() if task in who}
        for task in "ab"
    }
    budget = global_budget(dict.fromkeys(owners, shape), million * 100_000)
    clock, before = measure.Clock(), measure.resident()
    with measure.peak_memory() as peak, clock("all"):
        choose(scores, budget, "unanimous")
    return {"s": clock.wall["all"], "CPU s": clock.cpu["all"], "MB": (peak[0] - before) / measure.MB}


def workers_point(workers: int, threads: int) -> dict[str, float]:
    """BATCHES batches of 4 made-up NYUv2 rooms, crop 321, by so many loader processes."""
    import torch

    from configs.schema import Data
    from dataloaders import DATASETS
    from dataloaders.streams import training_batches

    torch.set_num_threads(threads)
    root = os.environ["GROWTH_ROOMS"]
    data = Data(root=root, tasks=("seg", "sn"), batch_size=4, num_workers=workers, val_fraction=0)
    tasks = DATASETS["nyuv2"].make_tasks(data.tasks, data, "paper")
    records = DATASETS["nyuv2"].open(data, "train", tasks, "paper")
    stream = iter(training_batches(records, data, seed=0, start=0, stop=WARM_UP + BATCHES))
    for _ in range(WARM_UP):  # the start of the workers is no matter of speed
        next(stream)
    clock = measure.Clock()
    with clock("all"):
        for _ in stream:
            pass
    return {"s": clock.wall["all"], "CPU s": clock.cpu["all"], "images/s": 4 * BATCHES / clock.wall["all"]}


def proportional(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Through the last point and the origin."""
    return [y[-1] * value / x[-1] for value in x]


def straight(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """Through the first and the last point."""
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    return [y[0] + slope * (value - x[0]) for value in x]


def shared_out(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """One worker's time over the workers, down to the number of cores."""
    return [y[1] / min(max(value, 1), os.cpu_count() or 1) for value in x]


SUBJECTS = {
    "tasks": Subject(
        "scoring one batch", "tasks", TASKS, tasks_point, straight, "a constant and a share for each task"
    ),
    "weights": Subject(
        "choosing", "million weights", WEIGHTS, weights_point, proportional, "proportional", log=True
    ),
    "workers": Subject(
        "loading 400 images", "workers", WORKERS, workers_point, shared_out, "1 / workers, up to the cores"
    ),
}


def measure_subject(subject: Subject, rounds: int, threads: int) -> dict[int, dict[str, float]]:
    ways = {at: partial(measure.fresh, subject.point, at, threads) for at in subject.at}
    return measure.take_turns(ways, rounds)


def plot(name: str, found: dict[int, dict[str, float]], folder: Path) -> Path:
    """Seconds and the other figure over x, measured and expected."""
    subject, x = SUBJECTS[name], list(found)
    other = next(key for key in found[x[0]] if key not in ("s", "CPU s"))
    figure = new_figure(9, 3.4)
    for axis, key, label in zip(figure.subplots(1, 2), ("s", other), ("seconds", other), strict=True):
        y = [found[at][key] for at in x]
        axis.plot(x, y, "o-", color=COLOURS[0], label="measured")
        if key != "images/s":
            axis.plot(x, subject.expected(x, y), "--", color="grey", label=subject.expectation)
        axis.set(xlabel=subject.xlabel, ylabel=label, title=subject.what)
        if subject.log:
            axis.set(xscale="log", yscale="log")
        else:
            axis.set_ylim(bottom=0)
            axis.set_xticks(x)
        axis.legend(frameon=False)
        plain_axes(axis)
    path = folder / f"growth_{name}.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each point")
    parser.add_argument("--only", choices=sorted(SUBJECTS), help="one subject (default: all)")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images", help="where plots go")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    measure.describe_machine(asked.threads)
    with tempfile.TemporaryDirectory() as rooms:
        for name in [asked.only] if asked.only else SUBJECTS:
            if name == "workers":
                os.environ["GROWTH_ROOMS"] = write_rooms(rooms)
            found = measure_subject(SUBJECTS[name], asked.rounds, asked.threads)
            path = plot(name, found, asked.folder)
            rows = [[at, *figures.values()] for at, figures in found.items()]
            measure.show([SUBJECTS[name].xlabel, *next(iter(found.values()))], rows)
            print(f"{SUBJECTS[name].what}: {path.name}\n")


def write_rooms(folder: str) -> str:
    """Made-up NYUv2 rooms, at least IMAGES for training."""
    command = [sys.executable, "-m", "dataloaders.synthetic", folder, "--layout", "nyuv2"]
    command += ["--images", str(IMAGES * 3 // 2)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return folder


if __name__ == "__main__":
    main()
