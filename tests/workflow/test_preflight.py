"""The preflight: finds what would go wrong late, changes nothing, leaves nothing, tells time and space."""

from __future__ import annotations

import re
import shutil
import signal
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.methods import METHODS
from tests import tiny
from tests.scripts import TINY, call
from workflow import estimate
from workflow.experiment import open_experiment
from workflow.preflight import SHORT, in_small
from workflow.running import Run

CREATE, LAUNCH = "create_pruned_net.py", "launch_training.py"


@pytest.fixture
def words(rooms, tmp_path):
    return [*TINY.split(), "--data-root", str(rooms), "--dest", str(tmp_path / "new" / "dest")]


@pytest.fixture(scope="module")
def dense(rooms, tmp_path_factory):
    """A folder with a dense network of the tiny settings, not trained."""
    from tests.test_bad_input import tiny_network

    folder = tmp_path_factory.mktemp("dense")
    tiny_network(rooms, folder)
    return folder / "dense.pth"


@pytest.mark.parametrize("method", ["baseline", "disparse_dynamic"])
def test_training_is_tried_in_small(method, words, tmp_path, capsys):
    end = call(LAUNCH, [*words, "--method", method, "--preflight"], capsys)
    unused = "--rounds 4 would change nothing here: the dense network is not pruned\n"
    assert (end.code, end.err) == (0, unused if method == "baseline" else "")
    for phase in ("data", "training, evaluation, checkpoint", "resumed to the end", "read back, evaluated"):
        assert re.search(rf"{phase}.* \d.* s", end.out), phase
    for row in ("12 steps of", "3 evaluations of 1 images", "together", "main memory", "disk"):
        assert row in end.out, row
    assert ("changes of the mask" in end.out) == (method != "baseline")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["disparse_static", "imp"])
def test_pruning_is_tried_in_small(method, words, dense, tmp_path, capsys):
    more = ["--init-from", str(dense)] if method == "imp" else []
    end = call(CREATE, [*words, "--method", method, *more, "--preflight"], capsys)
    assert (end.code, end.err) == (0, "")
    assert "scores of 3 batches" in end.out
    assert ("12 steps of" in end.out) == (method == "imp")
    assert list(tmp_path.iterdir()) == []


def test_a_preflight_changes_no_bit_of_the_run(words, tmp_path, capsys):
    given = [*words, "--method", "set"]
    results = []
    for setting, name in (("true", "one"), ("false", "two")):
        more = ["--set", f"run.preflight={setting}", "--name", name]
        assert call(LAUNCH, [*given, *more], capsys).code == 0
        results.append(torch.load(tmp_path / "new" / "dest" / f"final_{name}.pth", weights_only=True))
    one, two = results
    assert all(torch.equal(two["state"][name], value) for name, value in one["state"].items())


@pytest.mark.parametrize("preflight", [["--preflight"], []])
def test_what_would_fail_late_fails_early(preflight, words, rooms, tmp_path, capsys):
    # the pictures that validation reads are the last to be opened
    root = tmp_path / "rooms"
    shutil.copytree(rooms, root)
    for path in sorted((root / "img").iterdir())[9:10]:
        path.write_bytes(b"")
    given = [*words, "--method", "baseline", "--data-root", str(root), *preflight]
    end = call(LAUNCH, given, capsys)
    errors = [line for line in end.err.splitlines() if line.startswith("error: ")]
    assert end.code == 2 and len(errors) == 1
    assert "split 'val'" in errors[0] and errors[0].endswith("(found by the preflight: data)")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("calls", "step"), [(3, 2), (4, 3), (5, 3)])
def test_a_signal_ends_the_command_and_not_the_preflight_alone(
    calls, step, words, tmp_path, capsys, monkeypatch
):
    """Amid its steps, in the one after which it kills its run, and in the last one of the resumed run."""
    steps, keep = [], Run._keep_early_weights

    def interrupted(run, step):
        keep(run, step)
        steps.append(step)
        if len(steps) == calls:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Run, "_keep_early_weights", interrupted)
    end = call(LAUNCH, [*words, "--method", "baseline"], capsys)
    assert (end.code, steps[-1]) == (143, step)
    assert re.match(r"stopped( in the preflight)?; to go on: python3 \S+ ", end.err.splitlines()[-1])
    assert "the work begins" not in end.err
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_too_small_is_told_before(words, tmp_path, capsys, monkeypatch):
    little = SimpleNamespace(free=3 * 2**20)
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda folder: little)
    for more in ([], ["--preflight"]):
        end = call(LAUNCH, [*words, "--method", "baseline", *more], capsys)
        assert end.code == 2
        assert re.search(r"error: --dest \S+ has 3.0 MiB free and this command needs \d.\d MiB", end.err)
    assert list(tmp_path.iterdir()) == []


def test_a_preflight_refuses_what_the_run_would_refuse(words, tmp_path, capsys):
    folder = tmp_path / "new" / "dest"
    folder.mkdir(parents=True)
    (folder / "best_nyuv2_baseline.pth").touch()
    end = call(LAUNCH, [*words, "--method", "baseline", "--preflight"], capsys)
    assert end.code == 2 and "exists already" in end.err


@pytest.mark.parametrize("more", [[], ["--preflight"]])
def test_advice_names_the_own_folder(more, words, tmp_path, capsys):
    end = call(LAUNCH, [*words, "--method", "lth", *more], capsys)
    assert end.code == 2 and ".preflight" not in end.err
    assert re.search(
        r"create_pruned_net.py --dataset nyuv2 --method lth --ratio 90 --dest \S+/new/dest ", end.err
    )


@pytest.fixture
def experiment(rooms, tmp_path):
    flags = parse_assignments([*tiny.RUN, f"data.root={rooms}"])
    return open_experiment(load("nyuv2", flags=flags), "set", str(tmp_path / "dest"), None)


def test_two_at_once_and_what_a_killed_one_left(experiment, tmp_path):
    """Each has a folder of its own; a leftover is cleared by whoever takes its place."""
    left = tmp_path / "dest" / ".preflight_nyuv2_set_90_1" / "old.pth"
    left.parent.mkdir(parents=True)
    left.touch()
    with in_small(experiment, METHODS["set"], SHORT, []) as one:
        assert list(one.experiment.dest.iterdir()) == [] and one.experiment.dest == left.parent
        with in_small(experiment, METHODS["set"], SHORT, []) as two:
            assert two.experiment.dest.name == ".preflight_nyuv2_set_90_2"
            (one.experiment.dest / "mine").touch()
        assert [path.name for path in one.experiment.dest.iterdir()] == ["mine"]
    assert list((tmp_path / "dest").iterdir()) == []


def test_what_the_work_warns_of_is_left_to_the_work(experiment):
    """A warning is heard once, and what the preflight says is not."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        for place, expected in ((in_small(experiment, METHODS["set"], SHORT, []), 0), (nullcontext(), 1)):
            with place:
                warnings.warn("scores say nothing", stacklevel=1)
            assert len(heard) == expected
