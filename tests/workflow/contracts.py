"""Contracts by the scripts on small rooms: what their tests share."""

from __future__ import annotations

import csv
import json
import runpy
import shutil
from math import nan

import pytest
import torch

import workflow.contract_search
from tests.scripts import call
from workflow.judging import Fall

CREATE, EVALUATE = "create_pruned_net.py", "eval_pruned_net.py"
SETTINGS = """
data: {crop: 33, batch_size: 4, num_workers: 0}
model: {backbone: resnet18, width: 0.05}
optim: {iterations: 20, step_every: 100, lr: 1.0e-3}
finetune: {iterations: 2, lr: 1.0e-5}
contract: {resolution: 30, stride: 4, smallest: 5, resamples: 99, turns: 1}
run: {eval_every: 20, checkpoint_every: 1, curves: false, logger: none, preflight: false, device: cpu}
"""
LIMITS = "seg.err=1.5,sn=30"
NAME = "nyuv2_disparse_pt_contract"


@pytest.fixture(scope="module")
def dense(many_rooms, tmp_path_factory):
    """A folder with the settings and a trained dense network."""
    folder = tmp_path_factory.mktemp("dense")
    (folder / "small.yaml").write_text(SETTINGS)
    words = ["--method", "baseline", "--config", str(folder / "small.yaml"), "--data-root", str(many_rooms)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["launch_training.py", *words, "--dest", str(folder)])
        runpy.run_path("launch_training.py", run_name="__main__")
    return folder


@pytest.fixture
def place(dense, tmp_path):
    """A folder of its own with the dense network, and the words of a command there."""
    for name in ("final_nyuv2_baseline.pth", "small.yaml"):
        shutil.copy(dense / name, tmp_path)
    return tmp_path


def words(place, rooms, *more):
    return ["--config", str(place / "small.yaml"), "--data-root", str(rooms), "--dest", str(place), *more]


def checking(place, rooms, split, *more):
    contract = ["--contract", str(place / f"{NAME}_limits.json"), "--split", split]
    return ["--data-root", str(rooms), "--num-workers", "0", "--dest", str(place), *contract, *more]


@pytest.fixture(scope="module")
def made(dense, many_rooms, tmp_path_factory):
    """The folder of a finished search."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("final_nyuv2_baseline.pth", "small.yaml"):
        shutil.copy(dense / name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [CREATE, *words(folder, many_rooms, "--max-drop", LIMITS)])
        runpy.run_path(CREATE, run_name="__main__")
    return folder


@pytest.fixture
def only_trained(monkeypatch):
    """Pruning alone breaks every limit, so that every round is fine-tuned."""
    look, work = workflow.contract_search.Work._look, workflow.contract_search.Work
    train, trained = workflow.contract_search.Run.train, []

    def run(run, *given, **more):
        train(run, *given, **more)
        trained.append(run)

    def looked(work, network):
        falls = look(work, network)
        return falls if trained and not trained.clear() else dict.fromkeys(falls, Fall(nan, nan))

    monkeypatch.setattr(workflow.contract_search.Run, "train", run)
    monkeypatch.setattr(work, "_look", looked)


def certificate(folder):
    return json.loads((folder / f"{NAME}_limits.json").read_text())


def rows(folder):
    with (folder / f"{NAME}_search.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def changed(path):
    """The dense network of a file with one weight that is not as it was."""
    content = torch.load(path, weights_only=True)
    next(value for value in content["state"].values() if value.dim() > 1).flatten()[0] += 1
    torch.save(content, path)
    return path


class Killed(BaseException):
    """Unwinds everything, as a kill would end it, but for what `finally` does."""


def killed_before_training(command, capsys, monkeypatch):
    """Begin a search that ends where its first training begins; the weights at that moment."""
    begun = []

    def stop(network, *given):
        begun.append({name: value.clone() for name, value in network.state_dict().items()})
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(workflow.contract_search, "make_optimizer", stop)
        with pytest.raises(Killed):
            call(CREATE, command, capsys)
    return begun[0]
