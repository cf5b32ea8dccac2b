"""What a command will cost, measured on its rehearsal: time, memory, disk.

Times are of this machine with the user's batch size and data; the first steps of a run are often slower than
the rest, and files in the system's cache are read faster than the others.
"""

from __future__ import annotations

import math
import resource
import shutil
import sys
from pathlib import Path

import torch

from common.text import duration, file_size, table
from prune_utils.methods import Method
from prune_utils.regrow import make_schedule
from training.loop import Plan
from training.resume import KEPT

from .experiment import Experiment
from .rehearsal import Rehearsal

Row = tuple[str, str]


def disk_need(rehearsal: Rehearsal, plan: Plan | None) -> int:
    """Bytes that a command has on disk at most: networks, checkpoints with one being written, figures."""
    sizes = rehearsal.sizes
    need = 3 * sizes.get(".pth", 0)  # best, final, and a third: early weights, the published form
    if plan is not None:
        figures = sizes.get(".csv", 0) / rehearsal.rhythm.steps * (plan.steps / plan.log_every)
        need += (KEPT + 1) * sizes.get(".ckpt", 0) + math.ceil(3 * figures)
    return need


def check_disk(experiment: Experiment, rehearsal: Rehearsal, plan: Plan | None) -> int:
    """The bytes that are needed; OSError if there is less."""
    need, free = disk_need(rehearsal, plan), _free(experiment.dest)
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
    experiment: Experiment, method: Method | None, rehearsal: Rehearsal, plan: Plan
) -> tuple[list[Row], float]:
    """What a training run takes, by kind of work, and the sum in seconds."""
    steps = rehearsal.steps
    step = steps[3] - steps[2] if 3 in steps else steps[max(steps)] - steps[max(steps) - 1]
    images = len(experiment.records(experiment.config.run.select_on))
    evaluations = math.ceil(plan.steps / plan.eval_every)
    writing = rehearsal.seconds_per_byte
    saves = evaluations * rehearsal.sizes[".pth"]
    saves += plan.steps // plan.checkpoint_every * rehearsal.sizes[".ckpt"]
    work = [
        (f"{plan.steps} steps of {step:.3g} s", plan.steps * step),
        (f"{evaluations} evaluations of {images} images", evaluations * images * rehearsal.seconds_per_image),
        ("checkpoints and best weights", saves * writing),
    ]
    if method is not None and (method.grow or method.retrain) and 3 in steps:
        moves = _moves(experiment, method, plan)
        extra = max(0.0, (steps[2] - steps[1]) - step)
        work.insert(1, (f"{moves} changes of the mask", moves * extra))
    return [(what, duration(seconds)) for what, seconds in work], sum(seconds for _, seconds in work)


def _moves(experiment: Experiment, method: Method, plan: Plan) -> int:
    config = experiment.config
    if method.retrain:
        return plan.steps // config.prune.round_iterations
    dynamic = config.dynamic
    schedule = make_schedule(dynamic.until, dynamic.every, dynamic.fraction, plan.steps)
    return min(schedule.until, plan.steps) // schedule.every


def scoring_row(experiment: Experiment, rehearsal: Rehearsal, rounds: int) -> tuple[Row, float]:
    """What the scores take, and seconds."""
    batches = experiment.config.prune.num_batches
    seconds = rounds * (rehearsal.seconds_fixed + batches * rehearsal.seconds_per_batch)
    return (f"scores of {batches} batches, {rounds} time(s), and the mask", duration(seconds)), seconds


def memory_rows(experiment: Experiment) -> list[Row]:
    """The most memory that this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    rows = [("main memory, without loader processes", file_size(used))]
    device = experiment.fabric.device
    peak = getattr(torch.get_device_module(device), "max_memory_allocated", None)
    if peak is not None:
        rows.append((f"memory of {device}", file_size(peak(device))))
    return rows


def report(experiment: Experiment, rehearsal: Rehearsal, work: list[Row], seconds: float, need: int) -> str:
    """The tables that --preflight shows. seconds: all of `work` together."""
    phases = [(name, duration(seconds)) for name, seconds in rehearsal.seconds.items()]
    disk = [("disk", f"{file_size(need)} of {file_size(_free(experiment.dest))} free")]
    return "\n".join(
        [
            f"preflight of {experiment.name}: every phase works; nothing was kept.",
            "",
            table(phases, ("rehearsed", "took")),
            "",
            table(
                [*work, ("together", duration(seconds)), *memory_rows(experiment), *disk],
                ("the whole command", "will take"),
            ),
        ]
    )
