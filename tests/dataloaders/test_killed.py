"""No command leaves a process behind when it is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.dataloaders.small import nyuv2
from tests.scripts import ROOT, TINY, Script

MANY = 4000
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")


def members(field: int, value: int) -> list[int]:
    """Processes that live and have this group (field 2) or session (field 3)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[field]) == value and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def await_end(field: int, value: int) -> None:
    until = time.monotonic() + 5
    while left := members(field, value):
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


@pytest.mark.parametrize(
    "command", [synthetic, *(pytest.param(one, marks=pytest.mark.slow) for one in (cache, prepare))]
)
def test_a_killed_command_leaves_no_worker(command, tmp_path):
    words = [sys.executable, "-m", *command(tmp_path), "--workers", "2"]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
    while len([p for p in (tmp_path / "out").rglob("*") if p.is_file()]) < 5:
        assert process.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.02)
    assert len(members(3, process.pid)) >= 3
    process.kill()
    process.wait()
    await_end(3, process.pid)


@pytest.mark.slow  # the loader starts processes that import everything anew
def test_a_killed_training_leaves_no_loader_process(rooms, tmp_path):
    words = [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(rooms), "--method", "baseline"]
    words += ["--num-workers", "2", "--set", "optim.iterations=100000", "--dest", str(tmp_path / "dest")]
    script = Script("launch_training.py", words, tmp_path / "log").start()
    while not list((tmp_path / "dest").glob("*.ckpt")):
        assert script.process.is_alive(), script.said
        time.sleep(0.02)
    group = script.process.pid
    assert len(members(2, group)) >= 3
    script.process.kill()
    script.process.join()
    await_end(2, group)
