"""Seconds until a script shows its help or refuses its arguments.

usage: python3 -m benchmarks.startup [--rounds 5]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common.command_line import Parser

from . import measure

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = (
    "launch_training.py",
    "create_pruned_net.py",
    "eval_pruned_net.py",
    "iou_analysis.py",
    "reproduce.py",
)
MISTAKES = {
    "unknown flag": ("--no-such-flag",),
    "unknown data set": ("--dataset", "nyu"),
    "unknown setting": ("--set", "optim.speed=3"),
    "value out of range": ("--set", "prune.ratio=120"),
    "no such data folder": ("--data-root", "no/such/folder", "--overwrite"),
    "no such file of weights": ("--weights", "no/such/file.pth"),
}
ONLY = {
    "no such data folder": ("launch_training.py", "create_pruned_net.py", "iou_analysis.py"),
    "no such file of weights": ("eval_pruned_net.py",),
}


def seconds(script: str, words: tuple[str, ...], status: int) -> float:
    """Wall time of one call, which must end with this status."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, ROOT / script, *words], cwd=folder, capture_output=True)
        taken = time.perf_counter() - begin
    if done.returncode != status:
        raise SystemExit(f"error: {script} {' '.join(words)} ended with {done.returncode}, not {status}")
    return taken


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="calls of each")
    asked = parser.parse_args()
    measure.describe_machine(1)
    scripts = [script for script in SCRIPTS if (ROOT / script).is_file()]
    rows = []
    for what, words, status in [("--help", ("--help",), 0), *((k, v, 2) for k, v in MISTAKES.items())]:
        for script in [name for name in scripts if name in ONLY.get(what, scripts)]:
            taken = [seconds(script, words, status) for _ in range(asked.rounds)]
            rows.append([script, what, statistics.median(taken), max(taken)])
    measure.show(["script", "asked", "median s", "longest s"], rows)


if __name__ == "__main__":
    main()
