"""Runs that are killed and resumed end with the bits of the run that was not."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.scripts import TINY, Script, call

CREATE, LAUNCH = "create_pruned_net.py", "launch_training.py"


@pytest.fixture(scope="module")
def words(rooms):
    return [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(rooms)]


@pytest.fixture(scope="module")
def prepared(words, tmp_path_factory) -> Path:
    """A folder with what the runs start from: a trained dense network and a sparse one."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, method in ((LAUNCH, "baseline"), (CREATE, "disparse_static")):
        script = (
            Script(name, [*words, "--method", method, "--dest", str(folder)], folder / "log").start().wait()
        )
        assert script.code == 0, script.said
    shutil.rmtree(folder / "tensorboard")
    return folder


# method -> (script, files that it ends with)
RUNS = {
    "baseline": (LAUNCH, ("final_nyuv2_baseline", "best_nyuv2_baseline")),
    "disparse_dynamic": (
        LAUNCH,
        ("final_nyuv2_disparse_dynamic_90", "best_nyuv2_disparse_dynamic_90"),
    ),
    "imp": (CREATE, ("nyuv2_imp_90",)),
}
VARIANTS = {  # variant -> method, and what else is said
    "dynamic_pcgrad": ("disparse_dynamic", ("--weighting", "pcgrad")),
    "dynamic_nash": ("disparse_dynamic", ("--weighting", "nash_mtl")),
    "baseline_famo": ("baseline", ("--weighting", "famo")),
    "imp_channels": ("imp", ("--granularity", "channel", "--ratio-of", "macs")),
}
ALSO = {
    method: (LAUNCH, (f"final_nyuv2_{method}_90", f"best_nyuv2_{method}_90"))
    for method in ("disparse_static", "srigl", "gmp", "disparse_granet", "granet", "ac_dc", "top_kast")
}

SLOW = (*ALSO, *VARIANTS)


@pytest.fixture(scope="module")
def undisturbed(words, prepared, tmp_path_factory):
    """undisturbed(method) -> (folder of a run that nothing happened to, seconds that it took)."""
    known = {}

    def run(method: str) -> tuple[Path, float]:
        if method not in known:
            folder = fresh(prepared, tmp_path_factory.mktemp("undisturbed") / "dest", method)
            begin = time.monotonic()
            script = start(method, words, folder).wait()
            assert script.code == 0, script.said
            known[method] = folder, time.monotonic() - begin
        return known[method]

    return run


def fresh(prepared: Path, folder: Path, method: str) -> Path:
    """A copy of what is prepared, without the results of `method` itself."""
    shutil.copytree(prepared, folder)
    if VARIANTS.get(method, (method,))[0] == "baseline":
        for path in folder.glob("*nyuv2_baseline*"):
            path.unlink()
    return folder


def start(variant: str, words: list[str], folder: Path, *more: str, **how) -> Script:
    method, said = VARIANTS.get(variant, (variant, ()))
    name = (RUNS | ALSO)[method][0]
    more = (*more, *said)
    given = [*words, "--method", method, "--dest", str(folder), *more]
    return Script(name, given, folder / "log", **how).start()


def same(one, two, where="") -> None:
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert list(one) == list(two), where
        for key in one:
            same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    else:
        assert one == two, where


def assert_same_ends(variant: str, folder: Path, other: Path) -> None:
    method, _ = VARIANTS.get(variant, (variant, ()))
    for name in (RUNS | ALSO)[method][1]:
        one, two = (torch.load(place / f"{name}.pth", weights_only=True) for place in (folder, other))
        same(one, two)
    tables = [path.name for path in other.glob("*.csv")]
    assert tables
    for table in tables:
        assert (folder / table).read_text() == (other / table).read_text()
    left = {path.name for path in folder.iterdir()} - {path.name for path in other.iterdir()}
    assert not left


def killed_and_resumed(method: str, words: list[str], folder: Path, kills: int, seconds: float) -> int:
    """Kill the run so many times, every second time while a file is being written; returns the kills."""
    chance, done = random.Random(method), 0
    while True:
        script = start(method, words, folder, "--resume")
        if done < kills:
            if done % 2 == 0:
                await_writing(script, folder, chance.randrange(1, 6))
            else:
                script.process.join(chance.uniform(0.2, 0.7) * seconds)
            if script.process.is_alive():
                script.process.kill()
        script.wait()
        if script.code == -signal.SIGKILL:
            done += 1
        else:
            assert script.code == 0, script.said
            return done


def await_writing(script: Script, folder: Path, number: int) -> None:
    """Until the `number`-th file is half written, or the process has ended."""
    seen = set()
    while len(seen) < number and script.process.is_alive():
        with os.scandir(folder) as entries:
            seen.update((entry.name, entry.inode()) for entry in entries if entry.name.endswith(".part"))


@pytest.mark.parametrize(
    "method",
    [*RUNS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_killed_runs_end_with_the_same_bits(method, words, prepared, undisturbed, tmp_path):
    other, seconds = undisturbed(method)
    folder = fresh(prepared, tmp_path / "dest", method)
    assert killed_and_resumed(method, words, folder, 2, seconds) >= 1
    assert_same_ends(method, folder, other)


def stopped(method: str, words: list[str], folder: Path, number: signal.Signals) -> Script:
    """A run that got a signal after its second checkpoint."""
    script = start(method, words, folder)
    while script.process.is_alive() and len(checkpoints(folder)) < 2:
        time.sleep(0.01)
    os.kill(script.process.pid, number)
    return script.wait()


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("number", "damage"), [(signal.SIGTERM, truncate), (signal.SIGINT, flip_a_bit)], ids=["TERM", "INT"]
)
def test_stopped_damaged_and_resumed(number, damage, words, prepared, undisturbed, tmp_path):
    method = "disparse_dynamic"
    folder = fresh(prepared, tmp_path / "dest", method)
    script = stopped(method, words, folder, number)
    assert script.code == 128 + number
    assert script.said.splitlines()[-1].startswith("stopped after step ")
    assert "Traceback" not in script.said
    older, newest = checkpoints(folder)
    damage(newest)
    resumed = start(method, words, folder, "--resume").wait()
    assert resumed.code == 0, resumed.said
    assert f"passing over a checkpoint: {newest} is damaged" in resumed.said
    assert_same_ends(method, folder, undisturbed(method)[0])


def test_ctrl_c_reaches_the_loaders_workers_too(words, prepared, tmp_path):
    method = "disparse_static"
    folder = fresh(prepared, tmp_path / "dest", method)
    script = start(method, words, folder, "--num-workers", "1")
    while script.process.is_alive() and len(checkpoints(folder)) < 2:
        time.sleep(0.01)
    os.killpg(script.process.pid, signal.SIGINT)
    assert script.wait().code == 128 + signal.SIGINT, script.said
    assert script.said.splitlines()[-1].startswith("stopped after step ")


def test_a_full_disk_leaves_the_checkpoint_before(words, prepared, undisturbed, tmp_path):
    method = "disparse_static"
    folder = fresh(prepared, tmp_path / "dest", method)
    stopped(method, words, folder, signal.SIGTERM)
    before = {path.name: path.read_bytes() for path in checkpoints(folder)}
    room = checkpoints(folder)[0].stat().st_size * 2 // 3
    starved = start(method, words, folder, "--resume", largest_file=room).wait()
    assert starved.code == 2
    assert len(starved.errors) == 1 and "Traceback" not in starved.said
    assert re.match(r"error: cannot write .*\.step\d+\.ckpt: .* MiB free there\)", starved.errors[0])
    assert {path.name: path.read_bytes() for path in checkpoints(folder)} == before
    assert not list(folder.glob(".*"))
    assert start(method, words, folder, "--resume").wait().code == 0
    assert_same_ends(method, folder, undisturbed(method)[0])


def test_a_finished_run_is_left_alone(words, undisturbed, capsys):
    method = "disparse_static"
    folder = undisturbed(method)[0]
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    given = [*words, "--method", method, "--dest", str(folder)]
    again = call(LAUNCH, [*given, "--resume"], capsys)
    assert (again.code, again.err) == (0, "") and "was finished before" in again.out
    for more, complaint in (
        ([], "exists already: --overwrite replaces it"),
        (["--resume", "--lr", "0.5"], "was started with optim.lr=0.001, this command says 0.5"),
    ):
        refused = call(LAUNCH, [*given, *more], capsys)
        assert refused.code == 2 and complaint in refused.err
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_a_finished_network_is_made_once(words, undisturbed, capsys):
    folder = undisturbed("imp")[0]
    given = [*words, "--method", "imp", "--dest", str(folder)]
    content = (folder / "nyuv2_imp_90.pth").read_bytes()
    again = call(CREATE, [*given, "--resume"], capsys)
    assert again.code == 0 and "made before, unchanged" in again.out
    refused = call(CREATE, [*given, "--resume", "--seed", "3"], capsys)
    assert refused.code == 2 and "was started with run.seed=0, this command says 3" in refused.err
    assert (folder / "nyuv2_imp_90.pth").read_bytes() == content


def test_an_interrupted_run_is_resumed_with_its_own_settings_only(words, prepared, tmp_path, capsys):
    folder = fresh(prepared, tmp_path / "dest", "disparse_static")
    stopped("disparse_static", words, folder, signal.SIGTERM)
    given = [*words, "--method", "disparse_static", "--dest", str(folder)]
    fresh_start = call(LAUNCH, given, capsys)
    assert fresh_start.code == 2 and "--resume goes on" in fresh_start.err
    other = call(LAUNCH, [*given, "--resume", "--set", "data.hflip=0"], capsys)
    assert other.code == 2 and "was started with data.hflip=0.5, this command says 0.0" in other.err
    for path in checkpoints(folder):
        truncate(path)
    nothing = call(LAUNCH, [*given, "--resume"], capsys)
    assert nothing.code == 2 and "none of the 2 checkpoints" in nothing.err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["disparse_static", "disparse_dynamic", "imp"])
def test_runs_killed_ten_times_end_with_the_same_bits(method, words, prepared, undisturbed, tmp_path):
    other, seconds = undisturbed(method)
    kills = 0
    for attempt in range(10):
        folder = fresh(prepared, tmp_path / f"dest{attempt}", method)
        kills += killed_and_resumed(method, words, folder, 10 - kills, seconds)
        assert_same_ends(method, folder, other)
        if kills >= 10:
            return
    raise AssertionError(f"only {kills} kills")
