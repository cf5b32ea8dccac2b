"""Two processes do the work of one, and end together."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.scripts import ROOT, TINY, UNPRUNED, Script, pair

CREATE, LAUNCH, EVALUATE = "create_pruned_net.py", "launch_training.py", "eval_pruned_net.py"


@pytest.fixture(scope="module")
def words(rooms):
    return [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(rooms)]


@pytest.fixture(scope="module")
def half(rooms, tmp_path_factory) -> Path:
    """The rooms, of which every second one for training has no segmentation."""
    root = tmp_path_factory.mktemp("half") / "rooms"
    shutil.copytree(rooms, root)
    index = json.loads((root / "nyu_v2_3task.json").read_text())
    for record in index["train"][::2]:
        record[1] = None
    (root / "nyu_v2_3task.json").write_text(json.dumps(index))
    return root


def alone(name: str, words: list[str], log: Path) -> list[Script]:
    return [Script(name, words, log)]


def ended(scripts: list[Script], code: int | None = 0) -> list[Script]:
    for script in scripts:
        script.start()
    for script in scripts:
        script.wait()
        assert code is None or script.code == code, script.said
    return scripts


def load(folder: Path, name: str) -> dict:
    return torch.load(folder / name, weights_only=True)


def totals(folder: Path, method: str) -> list[float]:
    with (folder / f"nyuv2_{method}_training.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == "total"]


@pytest.mark.parametrize("method", ["disparse_static", "snip"])
def test_two_processes_choose_the_mask_of_one(method, words, tmp_path):
    for start, folder in ((alone, "one"), (pair, "two")):
        # three batches: the second process has none in the last turn
        given = [*words, "--method", method, "--dest", str(tmp_path / folder)]
        ended(start(CREATE, given, tmp_path / "log"))
    one, two = (load(tmp_path / folder, f"nyuv2_{method}_90.pth") for folder in ("one", "two"))
    assert all(torch.equal(one["mask"][name], two["mask"][name]) for name in one["mask"])
    assert one["certificate"] == two["certificate"]


@pytest.mark.parametrize(
    ("method", "weighting"),
    [
        ("baseline", "fixed"),
        ("disparse_dynamic", "pcgrad"),
        pytest.param("disparse_dynamic", "fixed", marks=pytest.mark.slow),
        pytest.param("baseline", "famo", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_like_one(method, weighting, words, half, tmp_path):
    # the batch is shared out, targets have invalid pixels or are missing, batch norm has batch statistics
    words = [*words, "--data-root", str(half), "--weighting", weighting]
    name = method if method == "baseline" else f"{method}_90"
    for start, folder in ((alone, "one"), (pair, "two")):
        given = [LAUNCH, *words, "--method", method, "--dest", str(tmp_path / folder)]
        ended(start("tests/exactly.py", given, tmp_path / "log"))
    one, two = (load(tmp_path / folder, f"final_nyuv2_{name}.pth") for folder in ("one", "two"))
    assert totals(tmp_path / "two", name) == pytest.approx(totals(tmp_path / "one", name), rel=1e-6)
    for layer, kept in (one["mask"] or {}).items():
        assert torch.equal(two["mask"][layer], kept), layer
    for tensor, value in one["state"].items():
        torch.testing.assert_close(two["state"][tensor], value, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def trained(words, tmp_path_factory) -> Path:
    """A dynamic run of two processes."""
    folder = tmp_path_factory.mktemp("trained") / "dest"
    first, second = ended(
        pair(LAUNCH, [*words, "--method", "disparse_dynamic", "--dest", str(folder)], folder / "log")
    )
    assert "trained 12 steps" in first.said
    assert "trained" not in second.said and "step/s" not in second.said
    return folder


def test_two_processes_stop_together_and_resume(words, trained, tmp_path):
    folder = tmp_path / "dest"
    given = [*words, "--method", "disparse_dynamic", "--dest", str(folder)]
    scripts = [script.start() for script in pair(LAUNCH, given, tmp_path / "log")]
    await_checkpoint(folder, scripts)
    os.kill(scripts[0].process.pid, signal.SIGTERM)
    codes = [script.wait().code for script in scripts]
    assert codes == [128 + signal.SIGTERM, 0], scripts[0].said
    ended(pair(LAUNCH, [*given, "--resume"], tmp_path / "log"))
    one, two = (load(place, "final_nyuv2_disparse_dynamic_90.pth") for place in (folder, trained))
    for part in ("mask", "state"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])
    table = "nyuv2_disparse_dynamic_90_training.csv"
    assert (folder / table).read_text() == (trained / table).read_text()


def await_checkpoint(folder: Path, scripts: list[Script]) -> None:
    while not list(folder.glob("*.ckpt")):
        assert all(script.process.is_alive() for script in scripts), [script.said for script in scripts]
        time.sleep(0.01)


def test_two_processes_score_every_image_once(words, trained, tmp_path):
    given = [*words, "--method", "disparse_dynamic", "--dest", str(trained), "--pictures", "2"]
    results, pictures = [], []
    for start in (alone, pair):
        ended(start(EVALUATE, given, tmp_path / "log"))
        results.append(json.loads((trained / "nyuv2_disparse_dynamic_90.json").read_text()))
        folder = trained / "nyuv2_disparse_dynamic_90_test_pictures"
        pictures.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(pictures[0]) == {"0000.png", "0001.png"} and pictures[0] == pictures[1]
    one, two = results
    assert one["images"] == two["images"] == 2
    for task, protocols in one["metrics"].items():
        for protocol, values in protocols.items():
            assert two["metrics"][task][protocol] == pytest.approx(values, rel=1e-9), (task, protocol)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-9)


def test_two_processes_find_the_agreement_of_one(rooms, tmp_path):
    words = [*UNPRUNED.split(), "--dataset", "nyuv2", "--data-root", str(rooms)]
    for start, folder in ((alone, "one"), (pair, "two")):
        ended(start("iou_analysis.py", [*words, "--dest", str(tmp_path / folder)], tmp_path / "log"))
    one, two = ((tmp_path / folder / "nyuv2_iou.json").read_text() for folder in ("one", "two"))
    assert json.loads(one)["curves"] == json.loads(two)["curves"]


def listening(process: int) -> set[str]:
    """The addresses, in hexadecimal, on which a process listens."""
    sockets = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since: the process goes on training
            sockets.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]
    ]
    return {line[1].split(":")[0] for line in lines if line[9] in sockets and line[3] == "0A"}


LOOPBACK = "0100007F"
needs_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are looked up in /proc")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run(victim, words, tmp_path):
    given = [*words, "--method", "disparse_dynamic", "--dest", str(tmp_path / "dest")]
    scripts = [script.start() for script in pair(LAUNCH, given, tmp_path / "log")]
    await_checkpoint(tmp_path / "dest", scripts)
    if Path("/proc/net/tcp").exists():
        assert [listening(script.process.pid) for script in scripts] == [{LOOPBACK}, {LOOPBACK}]
    scripts[victim].process.kill()
    left = scripts[1 - victim].wait(60)
    assert left.code == 2, left.said
    assert len(left.errors) == 1 and "another process of this run has ended" in left.errors[0]
    assert "Traceback" not in left.said


def test_an_error_of_one_process_ends_the_run(words, rooms, tmp_path):
    # a file is missing that only one of the two reads
    root = tmp_path / "rooms"
    shutil.copytree(rooms, root)
    record = json.loads((root / "nyu_v2_3task.json").read_text())["train"][4]
    (root / record[0]).unlink()
    given = [*words, "--method", "baseline", "--dest", str(tmp_path / "dest"), "--data-root", str(root)]
    scripts = ended(pair(LAUNCH, given, tmp_path / "log"), code=None)
    assert all(script.code == 2 for script in scripts), [script.said for script in scripts]
    errors = [line for script in scripts for line in script.errors]
    assert any(record[0] in line and "missing" in line for line in errors), errors
    assert not any("Traceback" in script.said for script in scripts)


def children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_processes_of_the_devices_flag_end_together(victim, words, tmp_path):
    command = [sys.executable, str(ROOT / LAUNCH), *words, "--method", "baseline", "--devices", "2"]
    command += ["--dest", str(tmp_path), "--set", "optim.iterations=100000"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    while not list(tmp_path.glob("*.ckpt")):
        assert first.poll() is None, (tmp_path / "said").read_text()
        time.sleep(0.05)
    (second,) = [child for child in children(first.pid) if LAUNCH in command_line(child)]
    assert listening(first.pid) == listening(second) == {LOOPBACK}
    os.kill((first.pid, second)[victim], signal.SIGKILL)
    status = first.wait(30)
    until = time.monotonic() + 5
    while Path(f"/proc/{second}/exe").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{second}/exe").exists()
    errors = [line for line in (tmp_path / "said").read_text().splitlines() if "error: " in line]
    if victim == 1:
        assert status == 2
        assert errors == [
            "error: another process of this run has ended, --resume goes on from the last checkpoint"
        ]


def command_line(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


def on_two_devices(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / CREATE), *words, "--method", "magnitude", "--devices", "2"]
    command += ["--dest", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_processes_of_the_devices_flag_fail_as_one(words, tmp_path):
    (tmp_path / "nyuv2_magnitude_90.pth").touch()
    refused = on_two_devices(words, tmp_path)
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error")]
    assert refused.returncode == 2 and len(errors) == 1, refused.stderr
    assert "exists already" in errors[0] and "Traceback" not in refused.stderr


@pytest.mark.slow
def test_processes_of_the_devices_flag(words, tmp_path):
    assert on_two_devices(words, tmp_path).returncode == 0
    assert load(tmp_path, "nyuv2_magnitude_90.pth")["certificate"]["kept"] == 15440


@pytest.mark.slow
def test_under_torchrun(words, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, LAUNCH, *words, "--method", "set", "--dest", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 12 steps") == 1
    assert load(tmp_path, "final_nyuv2_set_90.pth")["step"] == 12


@pytest.mark.slow
def test_a_compiled_network_trains_like_the_plain_one(words, tmp_path):
    results = []
    for name, more in (("plain", []), ("compiled", ["--compile"])):
        given = [LAUNCH, *words, "--method", "disparse_dynamic", "--dest", str(tmp_path), "--name", name]
        script = Script("tests/exactly.py", [*given, *more], tmp_path / "log").start().wait(500)
        assert script.code == 0, script.said
        results.append(load(tmp_path, f"final_{name}.pth"))
    plain, compiled = results
    assert all(torch.equal(compiled["mask"][name], kept) for name, kept in plain["mask"].items())
    for name, value in plain["state"].items():
        torch.testing.assert_close(compiled["state"][name], value, rtol=1e-5, atol=1e-6)
