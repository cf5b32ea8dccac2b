"""Checkpoints of a run in progress: written whole, the last two kept, a damaged one passed over aloud."""

from __future__ import annotations

import re
from pathlib import Path

from .checkpoint import read_file, write_file

KEPT = 2


def checkpoint_paths(folder: Path, name: str) -> list[Path]:
    """The checkpoints of a run, newest first."""
    found = []
    for path in Path(folder).glob(f"{_escaped(name)}.step*.ckpt"):
        match = re.fullmatch(re.escape(name) + r"\.step(\d+)\.ckpt", path.name)
        if match:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found, reverse=True)]


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[\]])", r"[\1]", name)


def save_checkpoint(folder: Path, name: str, step: int, content: dict) -> Path:
    """Write the state after `step` steps, then drop all but the last two."""
    path = write_file(Path(folder) / f"{name}.step{step:08d}.ckpt", content)
    for old in checkpoint_paths(folder, name)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def latest_checkpoint(folder: Path, name: str, say=print) -> dict | None:
    """The newest readable checkpoint, None where there is none; `say` hears of damaged ones.

    ValueError where there are checkpoints and none can be read.
    """
    paths = checkpoint_paths(folder, name)
    for path in paths:
        try:
            return read_file(path)
        except (ValueError, OSError) as error:
            say(f"passing over a checkpoint: {error}")
    if paths:
        raise ValueError(
            f"none of the {len(paths)} checkpoints of {name} in {folder} can be read; --overwrite starts anew"
        )
    return None


def remove_checkpoints(folder: Path, name: str) -> None:
    """After the final weights are written, a finished run needs none."""
    for path in checkpoint_paths(folder, name):
        path.unlink(missing_ok=True)
