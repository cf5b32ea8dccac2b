"""How a run goes on: its newest good checkpoint, every field of which is checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from re import fullmatch
from typing import Any, Protocol

import torch

from common.choices import printable
from common.tensors import flaw, mask_flaw
from models.multitask import MultiTaskNet
from training.averaging import Average
from training.checkpoint import MOST_STEPS, arithmetic, check_origin, check_state, load_state
from training.learner import Learner
from training.loop import Plan
from training.resume import OtherRun, check_optimizer, latest_checkpoint, load_optimizer, remove_checkpoints
from training.sparsifier import Sparsifier
from training.weighing import Weighing

from .experiment import Experiment
from .files import require_same_images, require_same_method, require_same_settings

MOST_THREADS = 10**6
INSTRUCTIONS = r"[A-Z0-9 ]{1,20}"  # as PyTorch names them


class Resumable(Protocol):
    """What of a run (running.Run) a checkpoint is loaded into."""

    experiment: Experiment
    network: MultiTaskNet
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier
    plan: Plan
    stem: str
    before: Sequence[str]
    best_step: int | None
    best_loss: float | None
    broken: dict[int, str]

    @property
    def weighing(self) -> Weighing: ...

    @property
    def images(self) -> dict[str, dict[str, Any]]: ...

    @property
    def average(self) -> Average | None: ...


def restore(run: Resumable, learner: Learner) -> int:
    """Load the newest checkpoint into all parts; the step that it is of, 0 where there is none yet."""
    experiment = run.experiment

    check = partial(_check, run, learner)
    state = latest_checkpoint(experiment.dest, run.stem, experiment.say, check)
    if state is None:
        return 0
    for name, here in arithmetic().items():
        if state.get(name, here) != here:
            experiment.say(
                f"{run.stem} ran with {state[name]} {name} and goes on with {here}: sums are taken in "
                "another order, the last bits may differ from those of an uninterrupted run"
            )
    load_state(run.network, state["network"], f"checkpoint of {run.stem}")
    load_optimizer(learner.optimizer, state["optimizer"])
    precision = learner.fabric.strategy.precision
    if _one_scales(run, state["scaler"], precision.state_dict()):
        experiment.say(
            f"{run.stem} goes on on another kind of device, and with a loss scale of its own: the last bits "
            "may differ from those of an uninterrupted run"
        )
    else:
        precision.load_state_dict(state["scaler"])
    run.sparsifier.load_state_dict(state["sparsifier"])
    if "weighing" in state:
        run.weighing.load_state_dict(state["weighing"])
    if run.average:
        run.average.load_state_dict(state["average"], state["step"])
    run.before = state.get("origin", [])
    run.broken = _broken(state, experiment)
    run.best_step, run.best_loss = state["outcome"]["best_step"], state["best"]
    if experiment.fabric.is_global_zero:
        remove_checkpoints(experiment.dest, run.stem, after=state["step"])
    return state["step"]


def _check(run: Resumable, learner: Learner, state: dict[str, Any], path: Path) -> None:
    """ValueError for a checkpoint that is damaged or forged, OtherRun for one of another run."""
    step = state["step"]
    for name in ("settings", "outcome", "network", "scaler", "sparsifier"):
        if not isinstance(state[name], dict):
            raise ValueError(f"{path}: field '{name}' is a {type(state[name]).__name__}, not a dict")
    try:
        require_same_method(state, run.experiment, run.stem)
        require_same_settings(state["settings"], run.experiment, run.stem)
    except OtherRun:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_origin(state, path)
    if not 0 < step <= run.plan.steps:
        raise ValueError(f"{path}: step {step} is none of a run of {run.plan.steps}")
    threads = state.get("threads", 1)
    if type(threads) is not int or not 0 < threads <= MOST_THREADS:
        raise ValueError(f"{path}: field 'threads' is no number of threads")
    instructions = state.get("instructions", "DEFAULT")
    if not isinstance(instructions, str) or not fullmatch(INSTRUCTIONS, instructions):
        raise ValueError(f"{path}: field 'instructions' names no instructions of a processor")
    _check_best(state, path)
    require_same_images(state, run.images, run.experiment, run.stem, path)
    _check_broken(state, run.experiment, path)
    check_state(run.network, state["network"], path)
    if run.average:
        if not isinstance(state.get("average"), dict):
            raise ValueError(
                f"{path}: field 'average', the moving average of the weights, is missing or no dict"
            )
        check_state(run.average.network, state["average"], f"{path}: average")
    try:
        check_optimizer(run.optimizer, state["optimizer"], step)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    scaler = learner.fabric.strategy.precision.state_dict()
    weighing = run.weighing.state_dict()
    theirs = state.get("weighing", weighing | {"rule": {}})  # earlier versions had none, and no rule
    own = run.sparsifier.state_dict()
    other_device = _one_scales(run, state["scaler"], scaler)
    for wrong in (
        "" if other_device else _unlike(state["scaler"], scaler, "scaler", MOST_STEPS),
        _unlike(state["sparsifier"], own, "sparsifier", step, run.sparsifier.to_come()),
        _unlike(theirs, weighing, "weighing", step),
    ):
        if wrong:
            raise ValueError(f"{path}: {wrong}")
    _check_counts(theirs, path)
    for name, kept in own.get("mask", {}).items():
        found = state["sparsifier"]["mask"][name].to(kept.device)
        if not run.sparsifier.may_hold(found, kept):
            raise ValueError(f"{path}: field 'sparsifier/mask/{name}' is not a mask that this run can have")


def _one_scales(run: Resumable, saved: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether only one of checkpoint and run scales losses: in 16-mixed a GPU does and a CPU does not."""
    return run.experiment.config.run.precision == "16-mixed" and bool(saved) != bool(own)


def _check_best(state: dict[str, Any], path: Path) -> None:
    """ValueError unless best step and score are those of one evaluation, or both unknown."""
    best, outcome = state["best"], state["outcome"]
    if set(outcome) != {"best_step", "best_loss"}:
        raise ValueError(f"{path}: field 'outcome' does not hold best_step and best_loss alone")
    number = outcome["best_step"]
    if number is not None and (type(number) is not int or not 0 < number <= state["step"]):
        raise ValueError(f"{path}: field 'outcome/best_step' is no step of this run")
    for name, value in (("best", best), ("outcome/best_loss", outcome["best_loss"])):
        known = type(value) is float and not math.isnan(value)
        if known != (number is not None) or value != best:
            raise ValueError(f"{path}: field '{name}' is not the score of the best step")


def _check_broken(state: dict[str, Any], experiment: Experiment, path: Path) -> None:
    """ValueError unless it is a list of every process's images that could not be read, by their places.

    A process that goes on for several has what each of them was allowed: how many that were is not known.
    """
    said, count = state.get("broken", []), len(experiment.records("train"))
    most = count if experiment.config.data.skip_unreadable else 0
    if not isinstance(said, list) or not all(_are_places(of, count, most) for of in said):
        raise ValueError(
            f"{path}: field 'broken' does not hold places of training images, 0 to {count - 1}, none where "
            "data.skip_unreadable is 0"
        )


def _are_places(value: Any, count: int, most: int) -> bool:
    """Whether it is a list of different places among `count`, and not too long."""
    plain = isinstance(value, list) and all(type(place) is int and 0 <= place < count for place in value)
    return plain and len(set(value)) == len(value) <= most


def _broken(state: dict[str, Any], experiment: Experiment) -> dict[int, str]:
    """What this process could not read by then; of another number of processes all is dealt among them."""
    fabric, said = experiment.fabric, state.get("broken", [])  # earlier versions did not tell
    mine = said[fabric.global_rank :: fabric.world_size]
    return {place: "could not be read" for places in mine for place in places}


def _check_counts(weighing: dict[str, Any], path: Path) -> None:
    """ValueError unless the tasks conflicted in no more steps than were looked at."""
    counts = {"conflicting": weighing["conflicting"], **weighing["pairs"]}
    for name, count in counts.items():
        if count > weighing["measured"]:
            raise ValueError(f"{path}: field 'weighing' counts more in '{name}' than in 'measured'")


def _unlike(value: Any, own: Any, name: str, step: int, to_come: Any = None) -> str:
    """What keeps a value of a checkpoint from taking the place of the run's own, with the field's name; ""
    for nothing.

    Numbers count something that happens at most once a step. to_come: what may stand there where the run has
    None (all of it) or {} (any part of it); of a dictionary, by name.
    """
    said, kind = f"field '{printable(name)[:200]}'", type(value).__name__
    if own is None:
        if value is None or to_come:
            return "" if value is None else _unlike(value, to_come, name, step)
        return f"{said} is a {kind}, where nothing belongs"
    if isinstance(own, dict):
        own = own or _part(to_come, value)
        if not isinstance(value, dict):
            return f"{said} is a {kind}, not a dict"
        other = set(own) ^ set(value)
        if other:
            first = printable(str(min(other, key=str)))[:80]
            return f"{said} {'has an unknown' if first in map(str, value) else 'lacks the'} entry '{first}'"
        later = to_come if isinstance(to_come, dict) else {}
        deeper = (_unlike(value[key], own[key], f"{name}/{key}", step, later.get(key)) for key in own)
        return next((wrong for wrong in deeper if wrong), "")
    if isinstance(own, torch.Tensor):
        wrong = (mask_flaw if own.dtype == torch.bool else flaw)(value, own)
        return f"{said} {wrong}" if wrong else ""
    if type(value) is not type(own) or (type(own) is int and not 0 <= value <= step):
        return f"{said} is {printable(str(value)[:40])!r}"
    return ""


def _part(whole: Any, value: Any) -> dict[str, Any]:
    """The entries of the whole that the value has, at every depth of dictionaries."""
    if not isinstance(whole, dict) or not isinstance(value, dict):
        return {}
    return {
        name: _part(whole[name], value[name]) if isinstance(whole[name], dict) else whole[name]
        for name in whole
        if name in value
    }
