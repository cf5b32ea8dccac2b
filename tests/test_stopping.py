"""A study that is told to stop: one sentence, the status of the signal, its run saved, no process left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts import ROOT, TINY, marked

if not Path("/proc/self/environ").exists():
    pytest.skip("processes are looked up in /proc", allow_module_level=True)

LONG = ("--set", "optim.iterations=100000", "--num-workers", "1")
PATIENCE = 5.0  # seconds for everything to end


class Study:
    """reproduce.py in a process group of its own, as a shell starts it; all its processes bear a mark."""

    def __init__(self, rooms: Path, folder: Path, *more: str):
        self.dest, self.log, self.mark = folder / "dest", folder / "log", str(folder)
        self.words = ["reproduce.py", *TINY.split(), *LONG, "--methods", "rigl", "--seeds", "1"]
        self.words += ["--data-root", str(rooms), "--dest", str(self.dest), *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MARK": self.mark}
        with self.log.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, *self.words],
                cwd=ROOT,
                env=environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def until(self, ready: Callable[[], bool]) -> None:
        while not ready():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def trains(self) -> bool:
        return len(self.steps()) == 2

    def loads(self) -> bool:
        """Whether the server of processes is there, which has libraries to load before the first run."""
        return len(marked(self.mark)) > 2

    def said_by_run(self) -> str:
        return (self.dest / "seed0/logs/nyuv2_baseline.launch.log").read_text()

    def steps(self) -> list[int]:
        """Of the checkpoints."""
        return [int(path.stem[-8:]) for path in self.dest.glob("seed0/*.ckpt")]

    def left(self) -> dict[int, str]:
        """The processes that are there after a while of patience."""
        until = time.monotonic() + PATIENCE
        while marked(self.mark) and time.monotonic() < until:
            time.sleep(0.05)
        return marked(self.mark)


@pytest.fixture
def study(rooms, tmp_path, request):
    begun = Study(rooms, tmp_path, *getattr(request, "param", ()))
    yield begun
    for process in marked(begun.mark):
        os.kill(process, signal.SIGKILL)
    begun.process.wait()


def alone(study: Study, number: signal.Signals) -> None:
    os.kill(study.process.pid, number)


def group(study: Study, number: signal.Signals) -> None:
    os.killpg(study.process.pid, number)


def every(study: Study, number: signal.Signals) -> None:
    for process in marked(study.mark):
        os.kill(process, number)


WAYS = [
    (Study.trains, group, signal.SIGTERM),
    pytest.param(Study.trains, alone, signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(Study.trains, alone, signal.SIGINT, marks=pytest.mark.slow),
    pytest.param(Study.trains, group, signal.SIGHUP, marks=pytest.mark.slow),
    pytest.param(Study.trains, every, signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(Study.loads, alone, signal.SIGTERM, marks=pytest.mark.slow),
    pytest.param(Study.loads, group, signal.SIGHUP, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("ready", "send", "number"), WAYS)
def test_a_study_stops(ready, send, number, study):
    study.until(lambda: ready(study))
    steps = study.steps()
    send(study, number)
    assert study.process.wait(60) == 128 + number, study.log.read_text()
    said = study.log.read_text()
    command = shlex.join(["python3", *study.words])
    assert said.splitlines()[-1] == f"the study was stopped; to go on: {command}"
    assert study.left() == {}
    if steps:  # the run has saved the step that it was at
        assert max(study.steps()) >= max(steps)
        message = f"stopped after step {max(study.steps())}; to go on: python3 "
        assert message in study.said_by_run()
    assert not list(study.dest.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("study", [("--jobs", "2")], indirect=True)
def test_runs_side_by_side_all_save_themselves(study):
    names = ("nyuv2_baseline", "nyuv2_rigl_90")
    study.until(lambda: all(list(study.dest.glob(f"seed0/{name}_training.*.ckpt")) for name in names))
    group(study, signal.SIGTERM)
    assert study.process.wait(60) == 143, study.log.read_text()
    assert study.log.read_text().splitlines()[-1].startswith("the study was stopped; ")
    for name in names:
        assert "stopped after step" in (study.dest / f"seed0/logs/{name}.launch.log").read_text()
    assert study.left() == {}


@pytest.mark.slow
def test_a_killed_study_leaves_nothing_behind(study):
    study.until(study.trains)
    study.process.kill()
    study.process.wait()
    until = time.monotonic() + 60
    while "stopped after step" not in study.said_by_run() and time.monotonic() < until:
        time.sleep(0.05)  # the step that it is at, which the machine may be slow to take
    assert study.left() == {}
