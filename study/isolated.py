"""Run the scripts one after the other, each in a process of its own with its output in a log.

Where the system can fork, the processes come from a server that has the libraries loaded already: a run
starts at once instead of after seconds. A process sees the same words as on a command line.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOADED = ["workflow.preflight"]


def _script(script: str, words: tuple[str, ...], log: str) -> None:
    """In the new process: the script as __main__, its output in the log."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which hands it on once: a second signal would kill
    with open(log, "ab", buffering=0) as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [script, *words]
    runpy.run_path(script, run_name="__main__")


def run_script(script: str, words: tuple[str, ...], log: Path) -> int:
    """Run a script of this project to its end; its exit status. Appends its output to the log.

    Ctrl-C and a termination are handed on: training writes a checkpoint, then KeyboardInterrupt is raised.
    """
    ways = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(LOADED)
    log.parent.mkdir(parents=True, exist_ok=True)
    child = context.Process(target=_script, args=(str(ROOT / script), tuple(words), str(log)))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        child.start()
        child.join()
    except KeyboardInterrupt:
        _stop(child)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    return child.exitcode


def _stop(child: multiprocessing.Process) -> None:
    """Ask a script to save and stop, and wait for it; another Ctrl-C ends it at once."""
    try:
        child.terminate()
        child.join()
    except KeyboardInterrupt:
        child.kill()
        child.join()
        raise


def last_line(log: Path) -> str:
    """The last line that a script said, for the report of a failure."""
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it said nothing"
