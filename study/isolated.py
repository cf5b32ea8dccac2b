"""Run the scripts one after the other, each in a process of its own with its output in a log.

Where the system can fork, the processes come from a server that has the libraries loaded already: a run
starts at once instead of after seconds. A process sees the same words as on a command line.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path

from common.interrupt import StopRequest
from common.parents import end_with_parent, serve

ROOT = Path(__file__).resolve().parents[1]
LOADED = ("workflow.preflight",)
THREADS = "OMP_NUM_THREADS"
TICK = 0.1  # seconds between looks for a request to stop


_running: set[BaseProcess] = set()  # scripts of this process


def kill_running() -> None:
    """End every script at once, without a word: for a second Ctrl-C."""
    for child in list(_running):
        child.kill()


def save_running() -> None:
    """Tell every script to stop, and wait until it has saved itself."""
    for child in list(_running):
        child.terminate()
        child.join()


class Stopped(Exception):
    """The study was told to stop; `number` of the signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def threads_of(at_once: int) -> int | None:
    """Threads for each of so many runs side by side; None = as the environment, or PyTorch, says."""
    if at_once == 1 or THREADS in os.environ:
        return None
    return max(1, (os.cpu_count() or 1) // at_once)


def _script(script: str, words: tuple[str, ...], log: str, threads: int | None, devices: int) -> None:
    """In the new process: the script as __main__, its output in the log. It saves itself if this one dies."""
    end_with_parent()
    # loader processes start as they do from a command line, not from one more server with nothing loaded
    multiprocessing.set_start_method(None, force=True)
    if threads is not None:
        import torch  # loaded by the server already

        torch.set_num_threads(threads)
        os.environ[THREADS] = str(threads)  # for processes that the script starts
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the parent alone, which hands it on once: a second signal would kill
    with open(log, "ab", buffering=0) as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [script, *words]
    if devices == 1:
        runpy.run_path(script, run_name="__main__")
        return
    sys.argv = ["torchrun", "--standalone", f"--nproc-per-node={devices}", *sys.argv]
    runpy.run_module("torch.distributed.run", run_name="__main__")


def run_script(
    script: str,
    words: tuple[str, ...],
    log: Path,
    stop: StopRequest,
    threads: int | None = None,
    devices: int = 1,
) -> int:
    """Run a script of this project to its end; its exit status. Appends its output to the log.

    threads: of the processor, that it may use; None = as it would by itself. devices: processes that torchrun
    starts. A request to stop is handed on, so that training writes a checkpoint; then Stopped is raised.
    """
    context = serve(*LOADED)
    log.parent.mkdir(parents=True, exist_ok=True)
    child = context.Process(
        target=_script, args=(str(ROOT / script), tuple(words), str(log), threads, devices)
    )
    _start(child, stop)
    _running.add(child)
    try:
        while stop.number is None and child.is_alive():
            child.join(TICK)
        if stop.number is not None:
            child.terminate()
        child.join()
    except BaseException:  # another Ctrl-C
        child.kill()
        raise
    finally:
        _running.discard(child)
    if stop.number is not None:
        raise Stopped(stop.number)
    assert child.exitcode is not None  # it has ended
    return child.exitcode


def _start(child: BaseProcess, stop: StopRequest) -> None:
    """Start a process; a server that has its libraries to load first is not waited for once we shall stop."""
    failures: list[Exception] = []

    def start() -> None:
        try:
            child.start()
        except Exception as error:  # raised where the caller sees it
            failures.append(error)

    starter = threading.Thread(target=start, daemon=True)
    starter.start()
    while starter.is_alive():
        starter.join(TICK)
        if stop.number is not None and (failures or starter.is_alive()):
            raise Stopped(stop.number)  # what comes of it ends with this process
    for error in failures:
        raise error


def last_line(log: Path) -> str:
    """The last line that a script said, for the report of a failure."""
    lines = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "it said nothing"
