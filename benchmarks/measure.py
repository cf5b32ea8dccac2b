"""What the benchmarks share: fresh processes, peak memory, medians in turn, tables, the machine in words.

A way is measured in a process of its own, so that one way's memory is not another's peak; the ways take
turns, so that a busy machine slows all of them. Wall time is what a user waits; CPU time (of all threads)
hardly changes when others use the machine.
"""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from common.text import table

MB = 1e6
Result = TypeVar("Result")
Name = TypeVar("Name", bound=str | int)


class Clock:
    """Wall and CPU seconds of named phases. `with clock("score"): ...` may repeat: times add up."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall[phase] = self.wall.get(phase, 0.0) + time.perf_counter() - wall
            self.cpu[phase] = self.cpu.get(phase, 0.0) + time.process_time() - cpu


def resident() -> int:
    """Bytes of this process in main memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def anonymous() -> int:
    """The same without pages of files (memory maps), which the system can take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def peak_memory(every: float = 0.002, look: Callable[[], int] = resident) -> Iterator[list[int]]:
    """The largest number of bytes in main memory inside, in a list of one; looked up every 2 ms."""
    peak, done = [look()], threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak[0] = max(peak[0], look())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], look())


def fresh(function: Callable[..., Result], *arguments: object) -> Result:
    """function(*arguments) in a new process; both must be importable by name."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def take_turns(
    ways: Mapping[Name, Callable[[], dict[str, float]]], rounds: int
) -> dict[Name, dict[str, float]]:
    """Each way once a round; medians of every figure that it returns."""
    seen: dict[Name, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seen[name].append(way())
    return {
        name: {figure: statistics.median(run[figure] for run in runs) for figure in runs[0]}
        for name, runs in seen.items()
    }


def show(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; floats with three significant digits, or as whole numbers from 100 on."""
    print(table([[_text(cell) for cell in row] for row in rows], header), flush=True)


def _text(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def describe_machine(threads: int | None) -> None:
    """A heading of the figures."""
    print(machine(threads) + "\n", flush=True)


def machine(threads: int | None) -> str:
    """Processor, threads, versions and load."""
    import torch

    name = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    load = os.getloadavg()[0]
    return (
        f"{name}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}, "
        f"Python {platform.python_version()}, load average {load:.1f} ({busy(load)})"
    )


def busy(load: float) -> str:
    """Whether others were using the machine: one running process of ours is no load worth a word."""
    return "quiet" if load < 1.5 * (os.cpu_count() or 1) else "LOADED: others used the machine"
