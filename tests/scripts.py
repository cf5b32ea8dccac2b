"""The scripts in processes of their own, on data that takes milliseconds: to be killed, starved, paired.

Processes come from a server that has the libraries loaded, so that one starts at once and a test can afford
twenty.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import resource
import runpy
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOADED = ["pytest", "workflow.preflight", "torch.utils.tensorboard"]
TINY = (
    "--config configs/tiny.yaml --num-workers 0 --device cpu --set model.width=0.05 --set data.crop=33 "
    "--set data.batch_size=2 --set prune.num_batches=3 --set prune.rounds=4 --set prune.round_iterations=3 "
    "--set dynamic.every=2 --set run.log_every=1 --set optim.iterations=12 --set finetune.iterations=12 "
    "--set run.eval_every=4 --set run.checkpoint_every=1 --set run.curves=false"
)
UNPRUNED = re.sub(r"--set prune\.round\S+ ", "", TINY)  # without what says how to prune


@dataclass
class Script:
    """One script in a process. `code` and `said` once it has ended."""

    name: str
    words: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    largest_file: int | None = None  # bytes that the process may write to one file
    process: multiprocessing.Process | None = None

    def start(self) -> Script:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LOADED)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        given = (self.name, self.words, str(self.log), self.environment, self.largest_file)
        self.process = context.Process(target=_run, args=given)
        self.process.start()
        return self

    def wait(self, seconds: float = 120) -> Script:
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"{self.name} did not end within {seconds} s: {self.said}")
        return self

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n") if self.log.is_file() else ""

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith("error")]


def _run(name: str, words: list[str], log: str, environment: dict[str, str], largest: int | None) -> None:
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.setpgrp()  # so that a signal can be sent to it and its workers, as Ctrl-C is
    os.environ.update({"OMP_NUM_THREADS": "1"} | environment)
    os.chdir(ROOT)
    import torch

    torch.set_num_threads(1)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = [str(ROOT / name), *words]
    runpy.run_path(sys.argv[0], run_name="__main__")


def pair(name: str, words: list[str], log: Path) -> list[Script]:
    """The script as two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "test",
        "GROUP_RANK": "0",
    }
    return [
        Script(
            name, words, log.with_suffix(f".{rank}"), shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(2)
    ]


@dataclass
class Said:
    """What a script that ran in this process left: status, what it printed, what it complained about."""

    code: int
    out: str
    err: str


def call(name: str, words: list[str], capsys) -> Said:
    """Run a script in this process, as `python3 name words` would."""
    capsys.readouterr()
    before, sys.argv = sys.argv, [str(ROOT / name), *words]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return Said(code, *capsys.readouterr())


def marked(mark: str) -> dict[int, str]:
    """The processes that were started with MARK=mark, or by such a one, and their command lines (Linux)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):  # it ends meanwhile
                if f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found
