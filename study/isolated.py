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
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from common.parents import end_with_parent

ROOT = Path(__file__).resolve().parents[1]
LOADED = ["workflow.preflight"]
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, a termination or a closed terminal; `number` of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, a signal to stop raises Stopped; one that is ignored, as nohup does, stays ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    wanted = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _context() -> ForkServerContext | SpawnContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def _script(script: str, words: tuple[str, ...], log: str) -> None:
    """In the new process: the script as __main__, its output in the log. It saves itself if this one dies."""
    end_with_parent()
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

    A signal to stop is handed on: training writes a checkpoint, then Stopped is raised.
    """
    context = _context()
    log.parent.mkdir(parents=True, exist_ok=True)
    child = context.Process(target=_script, args=(str(ROOT / script), tuple(words), str(log)))
    with stoppable():
        try:
            child.start()
            child.join()
        except KeyboardInterrupt:
            _stop(child)
            raise
    assert child.exitcode is not None  # it has ended
    return child.exitcode


def _stop(child: BaseProcess) -> None:
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
