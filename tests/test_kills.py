"""Every command killed again and again, and two of every command at once: nothing lost, nothing left.

Marked slow. `KILLS` and `PAIRS` in the environment say how often each command is killed, and how many pairs
of each kind are started; what was done is printed (-s):

    KILLS=20 PAIRS=5 python3 -m pytest -m "" -s tests/test_kills.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.dataloaders.test_killed import members
from tests.scripts import ROOT, TINY, Script, marked
from tests.test_resume import same

KILLS, PAIRS = (int(os.environ.get(name, "2")) for name in ("KILLS", "PAIRS"))
AT_ONCE = 5  # kills of one piece of work before it is let through to its end
PATIENCE = 5.0  # seconds until nothing may be left
CREATE, LAUNCH, EVALUATE = "create_pruned_net.py", "launch_training.py", "eval_pruned_net.py"
REFUSED = ("is in use by", "exists already", "holds other scores")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc"),
]


@dataclass
class Place:
    """Where a command works: prepared files that it starts from, copied for every piece of work."""

    rooms: Path
    prepared: Path
    mtan: Path
    many: Path  # rooms enough to certify something


@dataclass(frozen=True)
class Command:
    """One command line. start: files of `prepared` that it needs. again: words to go on with after a kill."""

    name: str
    script: str
    words: Callable[[Place, Path], list[str]]
    start: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    def folder(self, place: Place, at: Path) -> Path:
        at.mkdir(parents=True)
        for name in self.start:
            shutil.copy(place.prepared / name, at)
        return at


def training(place: Place, at: Path) -> list[str]:
    return [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(place.rooms), "--dest", str(at)]


def of(method: str, *more: str) -> Callable[[Place, Path], list[str]]:
    return lambda place, at: [*training(place, at), "--method", method, *more]


def contract_words(place: Place, at: Path) -> list[str]:
    shared = [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(place.many), "--dest", str(at)]
    limits = [
        "--max-drop",
        "seg.err=20,sn.mean=20",
        "--set",
        "finetune.lr=1e-5",
        "--set",
        "finetune.iterations=3",
    ]
    search = ["contract.resolution=30", "contract.smallest=5", "contract.stride=4", "contract.turns=1"]
    search.append("prune.rounds=1")
    return [*shared, *limits, *(word for setting in search for word in ("--set", setting))]


def study_words(place: Place, at: Path) -> list[str]:
    shared = [*training(place, at), "--methods", "snip,rigl", "--seeds", "1"]
    return [*shared, "--set", "run.preflight=false"]


def weights(place: Place, at: Path) -> list[str]:
    return ["--weights", str(at / "nyuv2_disparse_static_90.pth")]


ROOMS = ["--layout", "nyuv2", "--images", "40", "--size", "48x64", "--workers", "2"]
SPARSE, DENSE = "nyuv2_disparse_static_90.pth", "final_nyuv2_baseline.pth"
COMMANDS = {
    command.name: command
    for command in (
        Command("train dense", LAUNCH, of("baseline"), (), ("--resume",)),
        Command("train static", LAUNCH, of("disparse_static"), (SPARSE,), ("--resume",)),
        Command("train dynamic", LAUNCH, of("disparse_dynamic"), (), ("--resume",)),
        Command("train gradual", LAUNCH, of("gmp"), (), ("--resume",)),
        Command("create", CREATE, of("disparse_static"), (), ("--resume",)),
        Command(
            "create pretrained", CREATE, of("disparse_pt"), (DENSE, "best_nyuv2_baseline.pth"), ("--resume",)
        ),
        Command("create in rounds", CREATE, of("imp"), (DENSE, "best_nyuv2_baseline.pth"), ("--resume",)),
        Command("contract", CREATE, contract_words, (DENSE,), ("--resume",)),
        Command("export", "export_net.py", weights, (SPARSE,)),
        Command(
            "synthetic",
            "dataloaders/synthetic.py",
            lambda place, at: [
                str(at / "out"),
                *["--layout", "nyuv2", "--images", "40", "--size", "48x64", "--workers", "2"],
            ],
        ),
        Command(
            "prepare",
            "dataloaders/prepare/__main__.py",
            lambda place, at: ["cityscapes", str(place.mtan), str(at / "out"), "--workers", "2"],
        ),
        Command(
            "cache",
            "dataloaders/cache.py",
            lambda place, at: ["nyuv2", str(place.rooms), str(at / "out"), "--workers", "2"],
        ),
        Command("reproduce", "reproduce.py", study_words),
    )
}


@pytest.fixture(scope="module")
def place(rooms, many_rooms, tmp_path_factory) -> Place:
    prepared = tmp_path_factory.mktemp("prepared")
    mtan = tmp_path_factory.mktemp("mtan")
    found = Place(rooms, prepared, mtan, many_rooms)
    for script, method in ((LAUNCH, "baseline"), (CREATE, "disparse_static"), (LAUNCH, "disparse_static")):
        done = Script(script, of(method)(found, prepared), prepared / "log").start().wait()
        assert done.code == 0, done.said
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(10):
            shapes = {"image": (128, 256, 3), "depth": (128, 256, 1), "label_19": (128, 256)}
            for name, shape in shapes.items():
                (mtan / split / name).mkdir(parents=True, exist_ok=True)
                plane = generator.random(shape, np.float32)
                plane = np.floor(7 * plane) if name == "label_19" else plane
                np.save(mtan / split / name / f"{number}.npy", plane.astype(np.float32))
    return found


def as_module(script: str) -> list[str]:
    """How python is told to run it: the commands of the data sets are modules."""
    if "/" not in script:
        return [script]
    return ["-m", script.removesuffix(".py").removesuffix("/__main__").replace("/", ".")]


class Work:
    """A command at work in a folder; of its processes all can be found, whatever they are called."""

    def __init__(self, command: Command, place: Place, at: Path, *more: str) -> None:
        self.command, self.at = command, at
        words = [*command.words(place, at), *more]
        self.log = at.parent / f"{at.name}.{time.monotonic_ns()}.log"
        self.script: Script | None = None
        if command.name in ("reproduce", "synthetic", "prepare", "cache"):  # whose processes leave its group
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MARK": str(self.log)}
            with self.log.open("w") as said:
                self.process: Any = subprocess.Popen(
                    [sys.executable, *as_module(command.script), *words],
                    cwd=ROOT,
                    env=environment,
                    stdout=said,
                    stderr=said,
                )
        else:
            self.script = Script(command.script, words, self.log).start()
            self.process = self.script.process
        self.pid = self.process.pid

    def ends_within(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while self.code is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.code is not None

    @property
    def code(self) -> int | None:
        return self.process.exitcode if self.script else self.process.poll()

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> float:
        """kill -9 of its first process; seconds until all others have ended, too."""
        os.kill(self.pid, signal.SIGKILL)
        begin = time.monotonic()
        self.process.join() if self.script else self.process.wait()
        while self.left() and time.monotonic() < begin + 12 * PATIENCE:
            time.sleep(0.02)
        return time.monotonic() - begin

    def left(self) -> list[int]:
        return members(self.pid) if self.script else list(marked(str(self.log)))


def content(folder: Path) -> dict[str, Any]:
    """What a command left, by file: tensors and plain values, JSON, or bytes. Logs and times are none."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "tensorboard" in name or "logs/" in name or name == "times.csv":
            continue
        if path.suffix == ".pth":
            found[name] = torch.load(path, weights_only=True)
        elif path.suffix == ".json":
            found[name] = json.loads(path.read_text())
        else:
            found[name] = path.read_bytes()
    return found


_references: dict[str, tuple[dict[str, Any], float]] = {}


def undisturbed(command: Command, place: Place, folder: Path) -> tuple[dict[str, Any], float]:
    """What the command leaves when nothing happens to it, and the seconds that it takes."""
    if command.name not in _references:
        at = command.folder(place, folder / "undisturbed")
        begin = time.monotonic()
        work = Work(command, place, at)
        assert work.ends_within(300) and work.code == 0, work.said
        _references[command.name] = content(at), time.monotonic() - begin
    return _references[command.name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_ends_as_if_it_had_not_been(name, place, tmp_path):
    command, chance = COMMANDS[name], random.Random(name)
    expected, seconds = undisturbed(command, place, tmp_path)
    kills, pieces, longest = 0, 0, 0.0
    while kills < KILLS:
        at = command.folder(place, tmp_path / f"piece{pieces}")
        pieces, goal = pieces + 1, min(KILLS, kills + AT_ONCE)
        while True:
            work = Work(command, place, at, *command.again)
            if kills < goal and not work.ends_within(chance.uniform(0.05, 0.9) * seconds):
                taken = work.kill()
                assert taken < PATIENCE, (taken, work.left(), work.said)
                kills, longest = kills + 1, max(longest, taken)
                continue
            assert work.ends_within(300) and work.code == 0, work.said
            break
        same(content(at), expected)
    print(f"{name}: {kills} kills in {pieces} pieces of work, all equal; all gone after {longest:.1f} s")


TWICE = ("train static", "create", "export", "synthetic", "prepare", "cache", "reproduce")
COUPLES = [(name, name) for name in TWICE] + [("evaluate", "evaluate"), ("train dynamic", "create")]
EVALUATION = Command(
    "evaluate",
    EVALUATE,
    lambda place, at: [*training(place, at), "--method", "baseline"],
    ("best_nyuv2_baseline.pth",),
)


@pytest.mark.parametrize("names", COUPLES, ids=" and ".join)
def test_two_commands_in_one_folder_lose_nothing(names, place, tmp_path):
    """Both end well, or the second is told; what is there is what each of them alone leaves."""
    commands = [(COMMANDS | {"evaluate": EVALUATION})[name] for name in names]
    expected: dict[str, Any] = {}
    for number, command in enumerate(commands):
        expected |= undisturbed(command, place, tmp_path / f"alone{number}")[0]
    chance, refused = random.Random(names[0]), 0
    for number in range(PAIRS):
        at = tmp_path / f"pair{number}"
        at.mkdir()
        for command in commands:
            for name in command.start:
                shutil.copy(place.prepared / name, at)
        works = []
        for command in commands:
            works.append(Work(command, place, at))
            time.sleep(chance.choice((0.0, 0.0, 0.05, 0.5)))
        assert all(work.ends_within(300) for work in works), [work.said for work in works]
        codes = [work.code for work in works]
        assert 0 in codes and set(codes) <= {0, 2}, [work.said for work in works]
        for work in works:
            if work.code == 2:
                refused += 1
                errors = [line for line in work.said.splitlines() if line.startswith("error: ")]
                assert len(errors) == 1 and any(word in errors[0] for word in REFUSED), work.said
        if names[0] != names[1]:
            assert codes == [0, 0]
        same(content(at), expected)
    print(f"{' and '.join(names)}: {PAIRS} pairs, {refused} times the second was told, nothing lost")
