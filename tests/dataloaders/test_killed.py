"""No command leaves a process behind when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.dataloaders.small import nyuv2
from tests.scripts import ROOT, TINY, Script, marked

MANY = 4000
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")


def members(group: int) -> list[int]:
    """Processes of a group that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def await_end(left_now: Callable[[], object]) -> None:
    until = time.monotonic() + 5
    while left := left_now():
        assert time.monotonic() < until, left
        time.sleep(0.05)


def synthetic(folder: Path) -> list[str]:
    return ["dataloaders.synthetic", str(folder / "out"), "--layout", "nyuv2", "--images", str(MANY)]


def cache(folder: Path) -> list[str]:
    root = nyuv2(folder / "rooms")
    index = json.loads((root / "nyu_v2_3task.json").read_text())
    record = index["train"][0]
    for number in range(MANY // 4):
        names = [f"{number}-{Path(name).name}" for name in record]
        names = [str(Path(name).parent / new) for name, new in zip(record, names, strict=True)]
        for name, new in zip(record, names, strict=True):
            os.link(root / name, root / new)
        index["train"].append(names)
    (root / "nyu_v2_3task.json").write_text(json.dumps(index))
    return ["dataloaders.cache", "nyuv2", str(root), str(folder / "out")]


def prepare(folder: Path) -> list[str]:
    planes = {"image": (128, 256, 3), "depth": (128, 256, 1), "label_19": (128, 256)}
    for split in ("train", "val"):
        for name, shape in planes.items():
            place = folder / "mtan" / split / name
            place.mkdir(parents=True)
            np.save(place / "0.npy", np.ones(shape, np.float32))
            for number in range(1, MANY // 4):
                os.link(place / "0.npy", place / f"{number}.npy")
    return ["dataloaders.prepare", "cityscapes", str(folder / "mtan"), str(folder / "out")]


def at_work(command: Callable[[Path], list[str]], folder: Path) -> subprocess.Popen:
    """The command in a process group of its own, when its two workers have written something."""
    words = [sys.executable, "-m", *command(folder), "--workers", "2"]
    environment = os.environ | {"MARK": str(folder)}
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=said, stderr=said, start_new_session=True
        )
    while len([p for p in (folder / "out").rglob("*") if p.is_file()]) < 5:
        assert process.poll() is None, (folder / "said").read_text()
        time.sleep(0.02)
    assert len(marked(str(folder))) >= 3
    return process


COMMANDS = [synthetic, *(pytest.param(one, marks=pytest.mark.slow) for one in (cache, prepare))]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_command_leaves_no_worker(command, tmp_path):
    process = at_work(command, tmp_path)
    process.kill()
    process.wait()
    await_end(lambda: marked(str(tmp_path)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_stopped_says_so_and_leaves_no_worker(command, tmp_path):
    process = at_work(command, tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C reaches the workers, too
    said = tmp_path / "said"
    assert process.wait(60) == 130, said.read_text()
    assert said.read_text().splitlines()[-1] == "stopped: start it again"
    assert "Traceback" not in said.read_text()
    await_end(lambda: marked(str(tmp_path)))


def test_a_lost_worker_ends_its_command_with_a_sentence(tmp_path):
    process = at_work(synthetic, tmp_path)
    os.kill(max(marked(str(tmp_path))), signal.SIGKILL)  # workers are the last to be started
    said = tmp_path / "said"
    assert process.wait(60) == 2, said.read_text()
    assert said.read_text().splitlines()[-1].startswith("error: a worker process was ended, ")
    assert "Traceback" not in said.read_text()
    await_end(lambda: marked(str(tmp_path)))


@pytest.mark.slow  # the loader starts processes that import everything anew
def test_a_killed_training_leaves_no_loader_process(rooms, tmp_path):
    words = [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(rooms), "--method", "baseline"]
    words += ["--num-workers", "2", "--set", "optim.iterations=100000", "--dest", str(tmp_path / "dest")]
    script = Script("launch_training.py", words, tmp_path / "log").start()
    while not list((tmp_path / "dest").glob("*.ckpt")):
        assert script.process.is_alive(), script.said
        time.sleep(0.02)
    group = script.process.pid
    assert len(members(group)) >= 3
    script.process.kill()
    script.process.join()
    await_end(lambda: members(group))
