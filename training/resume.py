"""Checkpoints of a run in progress: written whole, the last two kept, a damaged one passed over aloud."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import remove_partial

from .checkpoint import read_file, write_file

KEPT = 2
FIELDS = ("step", "best", "settings", "network", "optimizer", "sparsifier")


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


def latest_checkpoint(folder: Path, name: str, say: Callable[[str], object] = print) -> dict[str, Any] | None:
    """The newest readable checkpoint, None where there is none; `say` hears of damaged ones.

    ValueError where there are checkpoints and none can be read.
    """
    paths = checkpoint_paths(folder, name)
    for path in paths:
        try:
            return _complete(read_file(path), path)
        except (ValueError, OSError) as error:
            say(f"passing over a checkpoint: {error}")
    if paths:
        raise ValueError(
            f"none of the {len(paths)} checkpoints of {name} in {folder} can be read: --overwrite starts anew"
        )
    return None


def _complete(content: dict, path: Path) -> dict:
    missing = [field for field in FIELDS if field not in content]
    if missing:
        raise ValueError(f"{path} is no checkpoint, it lacks '{missing[0]}'")
    return content


def remove_checkpoints(folder: Path, name: str, after: int = -1) -> None:
    """Remove the checkpoints of steps beyond `after` (all of them), and half-written ones.

    A finished run needs none; a resumed one removes the damaged ones that it passed over.
    """
    for path in checkpoint_paths(folder, name):
        if int(path.suffixes[-2].removeprefix(".step")) > after:
            path.unlink(missing_ok=True)
    for left in Path(folder).glob(f".{glob.escape(name)}.step*.ckpt.*"):
        remove_partial(left.with_name(left.name[1 : left.name.index(".ckpt") + 5]))
