"""What a command will cost, measured in its preflight: time, memory, disk.

Times are of this machine with the user's batch size and data; the first steps of a run are often slower than
the rest, and files in the system's cache are read faster than the others.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.text import duration, file_size, table
from prune_utils.methods import Method
from training.loop import Plan
from training.resume import KEPT

from .experiment import Experiment
from .pruning import mask_changes

Cost = tuple[str, float]  # a kind of work, and its seconds


@dataclass
class Measured:
    """What a preflight showed.

    length: steps of the run in small. seconds: by phase. steps: when each step until the kill was done.
    sizes: of the largest file of every kind, bytes.
    """

    length: int
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[int, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    seconds_per_image: float = 0.0  # of evaluation
    seconds_per_batch: float = 0.0  # of scoring
    seconds_fixed: float = 0.0  # of a mask without batches
    seconds_per_byte: float = 0.0  # of writing a network


def disk_need(measured: Measured, plan: Plan | None) -> int:
    """Bytes that a command has on disk at most: networks, checkpoints with one being written, figures."""
    sizes = measured.sizes
    need = 3 * sizes.get(".pth", 0)  # best, final, and a third: early weights, the published form
    if plan is not None:
        figures = sizes.get(".csv", 0) / measured.length * (plan.steps / plan.log_every)
        need += (KEPT + 1) * sizes.get(".ckpt", 0) + math.ceil(3 * figures)
    return need


def check_disk(experiment: Experiment, measured: Measured, plan: Plan | None) -> int:
    """The bytes that are needed; OSError if there is less."""
    need, free = disk_need(measured, plan), _free(experiment.dest)
    if need > free:
        raise OSError(
            f"--dest {experiment.dest} has {file_size(free)} free and this command needs {file_size(need)}: "
            "another --dest, or less there"
        )
    return need


def _free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def training_rows(
    experiment: Experiment, method: Method | None, measured: Measured, plan: Plan
) -> list[Cost]:
    """What a training run takes, by kind of work."""
    steps = measured.steps
    step = steps[3] - steps[2] if 3 in steps else steps[max(steps)] - steps[max(steps) - 1]
    images = len(experiment.records(experiment.config.run.select_on))
    evaluations = math.ceil(plan.steps / plan.eval_every)
    saves = evaluations * measured.sizes[".pth"]
    saves += plan.steps // plan.checkpoint_every * measured.sizes[".ckpt"]
    work = [
        (f"{plan.steps} steps of {step:.3g} s", plan.steps * step),
        (f"{evaluations} evaluations of {images} images", evaluations * images * measured.seconds_per_image),
        ("checkpoints and best weights", saves * measured.seconds_per_byte),
    ]
    if method is not None and (method.by_itself or method.retrain) and 3 in steps:
        moves = _moves(experiment, method, plan)
        extra = max(0.0, (steps[2] - steps[1]) - step)
        work.insert(1, (f"{moves} changes of the mask", moves * extra))
    return work


def _moves(experiment: Experiment, method: Method, plan: Plan) -> int:
    if method.retrain:
        return plan.steps // experiment.config.prune.round_iterations
    return mask_changes(experiment, method, plan.steps)


def scoring_row(experiment: Experiment, measured: Measured, rounds: int) -> Cost:
    """What the scores take."""
    batches = experiment.config.prune.num_batches
    seconds = rounds * (measured.seconds_fixed + batches * measured.seconds_per_batch)
    return f"scores of {batches} batches, {rounds} time(s), and the mask", seconds


def memory_rows(experiment: Experiment) -> list[tuple[str, str]]:
    """The most memory that this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    rows = [("main memory, without loader processes", file_size(used))]
    device = experiment.fabric.device
    peak = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    if peak is not None:
        rows.append((f"memory of {device}", file_size(peak(device))))
    return rows


def report(experiment: Experiment, measured: Measured, work: list[Cost], need: int) -> str:
    """The tables that --preflight shows. need: bytes on disk."""
    phases = [(name, duration(seconds)) for name, seconds in measured.seconds.items()]
    together = sum(seconds for _, seconds in work)
    costs = [(what, duration(seconds)) for what, seconds in [*work, ("together", together)]]
    disk = [("disk", f"{file_size(need)} of {file_size(_free(experiment.dest))} free")]
    return "\n".join(
        [
            f"preflight of {experiment.name}: every phase works; nothing was kept.",
            "",
            table(phases, ("preflight", "took")),
            "",
            table([*costs, *memory_rows(experiment), *disk], ("the whole command", "will take")),
        ]
    )
