"""Checkpoints of a run in progress: written whole, the last two kept, a damaged one passed over aloud."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.choices import printable
from common.files import remove_partial
from common.tensors import flaw

from .checkpoint import read_file, write_file

KEPT = 2
FIELDS = ("step", "best", "outcome", "settings", "network", "optimizer", "scaler", "sparsifier")
MOMENTS = {"exp_avg", "exp_avg_sq", "step"}  # what Adam keeps for a parameter


class OtherRun(ValueError):
    """Files are sound, and of a run that was asked for with other settings."""


def checkpoint_paths(folder: Path, name: str) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = []
    for path in Path(folder).glob(f"{glob.escape(name)}.step*.ckpt"):
        match = re.fullmatch(re.escape(name) + r"\.step(\d+)\.ckpt", path.name)
        if match:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found, reverse=True)]


def save_checkpoint(folder: Path, name: str, step: int, content: dict) -> Path:
    """Write the state after `step` steps, then drop all but the last two.

    content: FIELDS and more, tensors and plain values. OSError leaves the earlier checkpoints as they are.
    """
    path = write_file(Path(folder) / f"{name}.step{step:08d}.ckpt", content | {"step": step})
    for old in checkpoint_paths(folder, name)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def latest_checkpoint(
    folder: Path,
    name: str,
    say: Callable[[str], object] = print,
    check: Callable[[dict[str, Any], Path], object] = lambda content, path: None,
) -> dict[str, Any] | None:
    """The newest good checkpoint, None where there is none; `say` hears of damaged ones.

    check: raises ValueError, naming the file, for a content that the run cannot go on from, OtherRun where it
    is not its own. ValueError where there are checkpoints and none is good.
    """
    paths = checkpoint_paths(folder, name)
    for path in paths:
        try:
            content = _complete(read_file(path), path)
            check(content, path)
            return content
        except OtherRun:
            raise
        except (ValueError, OSError) as error:
            say(printable(f"passing over a checkpoint: {error}"))
    if paths:
        raise ValueError(
            f"none of the {len(paths)} checkpoints of {name} in {folder} can be read: --overwrite starts anew"
        )
    return None


def _complete(content: dict, path: Path) -> dict:
    missing = [field for field in FIELDS if field not in content]
    if missing:
        raise ValueError(f"{path} is no checkpoint, it lacks '{missing[0]}'")
    step = int(path.suffixes[-2].removeprefix(".step"))
    if type(content["step"]) is not int or content["step"] != step:
        raise ValueError(f"{path} says that it is of step {str(content['step'])[:40]!r}")
    return content


def check_optimizer(optimizer: torch.optim.Optimizer, saved: object, step: int) -> None:
    """ValueError unless `saved` is Adam's state dict after at most `step` steps of the same parameters.

    Its fused kernel trusts shapes and types: it would read and write beside the tensors.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    states = saved.get("state") if isinstance(saved, dict) else None
    if not isinstance(states, dict) or set(states) != set(range(len(parameters))):
        raise ValueError("the optimizer's state is not that of this network's parameters")
    for number, parameter in enumerate(parameters):
        moments = states[number]
        if not isinstance(moments, dict) or set(moments) != MOMENTS:
            raise ValueError(f"the optimizer's state of parameter {number} is not that of Adam")
        for name, value in moments.items():
            like = torch.zeros((), dtype=torch.float32) if name == "step" else parameter
            wrong = flaw(value, like) or ("" if value.dtype == like.dtype else f"is of type {value.dtype}")
            if not wrong and name != "exp_avg" and bool((value < 0).any()):
                wrong = "is negative"
            if not wrong and name == "step" and value > step:
                wrong = f"is {value:g} after {step} steps"
            if wrong:
                raise ValueError(f"the optimizer's '{name}' of parameter {number} {wrong}")


def load_optimizer(optimizer: Any, saved: dict[str, Any]) -> None:
    """Take over the tensors of a state that was checked; the settings stay those of the command."""
    own = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})


def remove_checkpoints(folder: Path, name: str, after: int = -1) -> None:
    """Remove the checkpoints of steps beyond `after` (all of them), and half-written ones.

    A finished run needs none; a resumed one removes the damaged ones that it passed over.
    """
    for path in checkpoint_paths(folder, name):
        if int(path.suffixes[-2].removeprefix(".step")) > after:
            path.unlink(missing_ok=True)
    for left in Path(folder).glob(f".{glob.escape(name)}.step*.ckpt.*"):
        remove_partial(left.with_name(left.name[1 : left.name.index(".ckpt") + 5]))
