"""Command lines of this program that can be typed in the folder where the user is."""

from __future__ import annotations

from pathlib import Path

from . import ROOT


def script(name: str) -> str:
    """'python3 launch_training.py' in this program's folder, with the script's whole path elsewhere."""
    return f"python3 {name if Path.cwd() == ROOT else ROOT / name}"


def module(name: str) -> str:
    """'python3 -m dataloaders.synthetic' in this program's folder, from elsewhere with what finds it."""
    where = "" if Path.cwd() == ROOT else f"PYTHONPATH={ROOT} "
    return f"{where}python3 -m {name}"
