"""Mistakes of users: one sentence that names the value and what would be right, nothing left behind."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.scripts import ROOT, TINY, UNPRUNED, call

CREATE, LAUNCH, EVALUATE = "create_pruned_net.py", "launch_training.py", "eval_pruned_net.py"
AGREE = "iou_analysis.py"
METHODS = "disparse_static, snip, random, magnitude"

# script, words, what the sentence must name
CASES = [
    (CREATE, "--method dispares", ["'dispares'", METHODS]),
    (CREATE, "--dataset nyu", ["'nyu'", "cityscapes, nyuv2, taskonomy"]),
    (CREATE, "--ratio 100", ["100", "1 to below 100"]),
    (CREATE, "--ratio -5", ["-5", "1 to below 100"]),
    (CREATE, "--ratio ninety", ["--ratio", "a number", "'ninety'"]),
    (CREATE, "--ratio 0.9", ["0.9", "did you mean 90?"]),
    (CREATE, "--ratio nan", ["nan", "1 to below 100"]),
    (CREATE, "--ratio 99.9999", ["99.9999", "none of 154403"]),
    (CREATE, "--set prune.num_batches=0", ["num_batches", "0", "at least 1"]),
    (CREATE, "--num_batches many", ["--num-batches", "whole number", "'many'"]),
    (CREATE, "--criterion snap", ["'snap'", "lamp, magnitude, random, snip, snip_signed"]),
    (CREATE, "--budget erx", ["'erx'", "erk, global, uniform"]),
    (CREATE, "--arbiter all", ["'all'", "intersection, majority, share, unanimous, weighted"]),
    (CREATE, "--scope heads", ["heads", "all or backbone"]),
    (CREATE, "--protect trunk.*", ["'trunk.*'", "backbone.stem.conv"]),
    (CREATE, "--set prune.rounds=0", ["prune.rounds", "0", "at least 1"]),
    (CREATE, "--keep-ratio 1.5", ["prune.keep_ratio", "1.5", "at most 1"]),
    (CREATE, "--method random --keep-ratio 0.1", ["0.1", "global", "4 rounds"]),
    (CREATE, "--level 0.9", ["--level 0.9 is for --max-drop"]),
    (CREATE, "--method gmp", ["method gmp prunes while it trains", "launch_training.py"]),
    (LAUNCH, "--method gmp --set gradual.end=50", ["ends after step 50", "12 steps"]),
    (LAUNCH, "--method gmp --set gradual.every=0", ["gradual.every", "above 0"]),
    (LAUNCH, "--weighting upgrd", ["weighting 'upgrd'", "fixed, upgrad", "did you mean 'upgrad'"]),
    (LAUNCH, "--weighting min_max", ["min_max", "no reference of task 'seg'", "--tasks seg"]),
    (LAUNCH, "--weighting pcgrad --set weighting.strength=2", ["pcgrad has no strength", "2"]),
    (LAUNCH, "--set weighting.strength=2", ["fixed has no strength", "weighting.strength is 2"]),
    (CREATE, "--set weighting.references.foo=1", ["fixed compares with no network", "references.foo is 1"]),
    (
        LAUNCH,
        "--weighting dwa --set weighting.references.seg=1",
        ["dwa compares with no network", "seg is 1"],
    ),
    (
        LAUNCH,
        "--weighting min_max --set weighting.references.seg=1 --set weighting.references.sn=0",
        ["references.sn is 0"],
    ),
    (LAUNCH, "--weighting cagrad --set weighting.strength=-1", ["weighting.strength", "above 0"]),
    (LAUNCH, "--conflicts-every -1", ["conflicts_every", "at least 0"]),
    (CREATE, "--voters upgrd", ["voters 'upgrd'", "tasks, joint, upgrad"]),
    (CREATE, "--method magnitude --voters mgda", ["'mgda'", "method magnitude"]),
    (CREATE, "--method set --start-mask imp", ["start mask 'imp'", "method set"]),
    (CREATE, "--set prune.factors.dpeth=2", ["factor of task 'dpeth'", "seg, sn"]),
    (LAUNCH, "--method disparse_dynamic --set prune.factors.foo=2", ["factor of task 'foo'", "seg, sn"]),
    (
        CREATE,
        "--max-drop all=1 --logger wandb --set prune.rounds=null",
        ["final_nyuv2_baseline.pth", "launch_training.py"],
    ),
    (CREATE, "--plugin {root}/none.py", ["no plugin file", "none.py"]),
    (CREATE, "--plugin {broken_yaml}", ["broken.yaml", "not a Python file"]),
    (CREATE, "--set prune.ration=3", ["'prune.ration'", "did you mean 'ratio'"]),
    (CREATE, "--set prune.ratio", ["'prune.ratio'", "section.field=value"]),
    (CREATE, "--set data.scale=[2,1]", ["data.scale", "smaller first"]),
    (CREATE, "--config {root}/none.yaml", ["none.yaml", "configs/tiny.yaml"]),
    (CREATE, "--config {broken_yaml}", ["broken.yaml", "not valid YAML at line"]),
    (CREATE, "--data-root {root}/nowhere", ["nowhere", "dataloaders.synthetic"]),
    (CREATE, "--data-root {empty}", ["nyu_v2_3task.json", "dataloaders.synthetic"]),
    (CREATE, "--data-root {leaving}", ["'../../secret.png'", "record 0", "out of the data folder"]),
    (CREATE, "--data-root {cut_short}", ["record", "is missing"]),
    (CREATE, "--data-root {twice}", ["image 'img/", "'train'", "'test'", "--allow-overlap"]),
    (LAUNCH, "--method baseline --data-root {twice}", ["image 'img/", "--allow-overlap"]),
    (EVALUATE, "--weights {dense} --data-root {twice}", ["image 'img/", "--allow-overlap"]),
    (CREATE, "--tasks seg,dpeth", ["'dpeth'", "depth, seg, sn"]),
    (CREATE, "--tasks edge", ["'edge'", "depth, seg, sn"]),
    (CREATE, "--classes 3", ["record", "label", "neither below 3"]),
    (CREATE, "--protocol exact", ["exact", "paper or metric"]),
    (CREATE, "--set data.batch_size=0", ["batch_size", "0", "at least 1"]),
    (CREATE, "--num-workers -1", ["num_workers", "-1", "at least 0"]),
    (CREATE, "--device abacus", ["'abacus'", "auto, cpu"]),
    (CREATE, "--devices 0", ["--devices '0'", "at least 1"]),
    (CREATE, "--devices two", ["--devices 'two'", "auto"]),
    (CREATE, "--precision 8-bit", ["'8-bit'", "32-true, bf16-mixed, 16-mixed"]),
    (CREATE, "--backbone vgg16", ["'vgg16'", "resnet18, resnet34"]),
    (CREATE, "--set model.width=0", ["0", "(0, 4]"]),
    (CREATE, "--branch-after stages.9.0", ["'stages.9.0'", "stem, stages.0.0"]),
    (CREATE, "--init-from {root}/none.pth", ["none.pth", "no file"]),
    (CREATE, "--init-from {text}", ["text.pth", "damaged or no file of PyTorch"]),
    (CREATE, "--init-from {malicious}", ["malicious.pth", "other than tensors", "not loaded"]),
    (CREATE, "--init-from {other_shape}", ["'backbone.conv1.weight'", "(5, 3, 7, 7)", "(4, 3, 7, 7)"]),
    (CREATE, "--init-from {history}", ["history.pth", "'state_dict' is a dict"]),
    (CREATE, "--backbone-weights {root}/none.pth", ["none.pth", "no file"]),
    (CREATE, "--backbone-weights {torchvision}", ["'conv1.weight'", "(64, 3, 7, 7)", "--width 1"]),
    (CREATE, "--method disparse_pt", ["final_nyuv2_baseline.pth", "launch_training.py", "--init-from"]),
    (CREATE, "--method lth --init-from {dense}", ["rewind_dense_step0.pth", "launch_training.py"]),
    (CREATE, "--dest {text}", ["text.pth", "is a file"]),
    (CREATE, "--name a/b", ["'a/b'", "--dest"]),
    (CREATE, "--shape round", ["--shape"]),
    (LAUNCH, "--method dense", ["'dense'", METHODS]),
    (LAUNCH, "--method snip", ["nyuv2_snip_90.pth", "create_pruned_net.py"]),
    (LAUNCH, "--method snip --init-from {dense}", ["dense.pth", "without a mask", "create_pruned_net.py"]),
    (LAUNCH, "--method baseline --set optim.iterations=0", ["iterations", "0", "--max-iters"]),
    (LAUNCH, "--method baseline --rewind-step 13", ["--rewind-step 13", "12 steps", "from 0 to 12"]),
    (LAUNCH, "--method baseline --lr fast", ["--lr", "a number", "'fast'"]),
    (LAUNCH, "--method baseline --lr -1", ["optim.lr", "-1", "above 0"]),
    (LAUNCH, "--method baseline --lr inf", ["optim.lr", "inf"]),
    (LAUNCH, "--method baseline --set run.eval_every=0", ["eval_every", "0", "at least 1"]),
    (LAUNCH, "--method baseline --set run.checkpoint_every=0", ["checkpoint_every", "0", "at least 1"]),
    (LAUNCH, "--method baseline --accumulate 0", ["accumulate", "0", "at least 1"]),
    (LAUNCH, "--method baseline --seed one", ["--seed", "whole number", "'one'"]),
    (LAUNCH, "--method baseline --select-on dev", ["'dev'", "test, train, val"]),
    (
        LAUNCH,
        "--method baseline --set loss_weights.seg=0 --set loss_weights.sn=0",
        ["loss_weights.seg, loss_weights.sn are all 0"],
    ),
    (LAUNCH, "--method baseline --set loss_weights.seg=heavy", ["loss_weights.seg", "'heavy'"]),
    (LAUNCH, "--method baseline --init-from {malicious}", ["malicious.pth", "not loaded"]),
    (
        LAUNCH,
        "--method baseline --init-from {dense} --export-published {dense}",
        ["--export-published", "dense.pth is the network itself"],
    ),
    (
        CREATE,
        "--init-from {dense} --export-published {root}/../{folder}/dense.pth",
        ["--export-published", "dense.pth is the network itself"],
    ),
    *(
        (
            script,
            f"{how} --init-from {{dense}} --preflight {{dense}}",
            ["--preflight", "is the network itself"],
        )
        for script, how in ((LAUNCH, "--method baseline"), (CREATE, "--method disparse_pt"))
    ),
    (LAUNCH, "--method baseline --data-root {scrambled}", ["record", "img/", "no complete picture"]),
    (LAUNCH, "--method rigl --set dynamic.fraction=2", ["dynamic.fraction", "2", "between 0 and 1"]),
    (LAUNCH, "--method rigl --set dynamic.until=13", ["dynamic.until 13", "12 steps", "below 1"]),
    (LAUNCH, "--method rigl --set dynamic.until=1", ["dynamic.every 2", "dynamic.until 1", "never move"]),
    (LAUNCH, "--method gmp --set dynamic.progress=1", ["dynamic.progress 1.0", "method gmp grows none"]),
    (CREATE, "--set dynamic.memory=0.5", ["dynamic.memory 0.5", "method disparse_static grows none"]),
    (LAUNCH, "--method gmp --shuffle", ["shuffle", "method gmp", "chooses again"]),
    (LAUNCH, "--method baseline --set data.crop=8", ["data.crop", "8", "at least 16"]),
    (EVALUATE, "--method snapp", ["'snapp'", METHODS]),
    (EVALUATE, "--method snip", ["best_nyuv2_snip_90.pth", "launch_training.py"]),
    (EVALUATE, "--weights {root}/none.pth", ["none.pth", "no file"]),
    (EVALUATE, "--weights {malicious}", ["malicious.pth", "not loaded"]),
    (EVALUATE, "--weights {dense} --split dev", ["'dev'", "test, train, val"]),
    (EVALUATE, "--weights {dense} --dataset cityscapes", ["dense.pth", "nyuv2"]),
    (EVALUATE, "--weights {dense} --pictures -1", ["--pictures", "-1"]),
    (EVALUATE, "--weights {dense} --width 0.06", ["dense.pth", "width 0.05", "0.06"]),
    (AGREE, "--keep-ratios all", ["--keep-ratios", "numbers", "'all'"]),
    (AGREE, "--keep-ratios 1.5", ["--keep-ratios 1.5 is not a share above 0 and up to 1"]),
    (AGREE, "--keep-ratios 0.1,0", ["--keep-ratios 0 is not a share"]),
    (AGREE, "--seeds 0", ["--seeds 0"]),
    (AGREE, "--tasks seg", ["two tasks", "seg"]),
    (AGREE, "--criterion snap", ["'snap'", "lamp, magnitude, random, snip, snip_signed"]),
    (AGREE, "--init-from {malicious}", ["malicious.pth", "not loaded"]),
]


class Attack:
    """Unpickled, it would make a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def place(rooms, tmp_path_factory) -> dict[str, str]:
    """Files that are wrong in one way each, by name; `root` is their folder."""
    root = tmp_path_factory.mktemp("bad")
    (root / "broken.yaml").write_text("data: {crop: [33\nrun: 3")
    (root / "text.pth").write_text("these are no weights")
    torch.save({"weights": Attack(root / "attacked")}, root / "malicious.pth")
    torch.save({"state_dict": {}, "epoch": 3}, root / "history.pth")
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), root / "torchvision.pth")
    network = tiny_network(rooms, root)
    wrong = network | {"backbone.conv1.weight": torch.zeros(5, 3, 7, 7)}
    torch.save(wrong, root / "other_shape.pth")
    folders = bad_data(rooms, root)
    files = {path.stem: str(path) for path in root.glob("*.pth")}
    return (
        {"root": str(root), "folder": root.name, "broken_yaml": str(root / "broken.yaml")} | files | folders
    )


def tiny_network(rooms: Path, root: Path) -> dict:
    """Writes a dense network of the tiny settings as dense.pth; its published form."""
    from configs.arguments import parse_assignments
    from configs.load import load
    from models.published import to_published
    from workflow.experiment import open_experiment
    from workflow.networks import new_network, save_network

    words = TINY.split()
    flags = parse_assignments(words[i + 1] for i, word in enumerate(words) if word == "--set")
    config = load("nyuv2", ["configs/tiny.yaml"], flags)
    experiment = open_experiment(config, "baseline", str(root), "dense")
    network = new_network(experiment)
    save_network(experiment, root / "dense.pth", network)
    return to_published(network.state_dict(), None, network.tasks)


def bad_data(rooms: Path, root: Path) -> dict[str, str]:
    """Data sets that are wrong in one way each."""
    (root / "empty").mkdir()
    for name in ("leaving", "cut_short", "scrambled", "twice"):
        shutil.copytree(rooms, root / name)
    index = json.loads((rooms / "nyu_v2_3task.json").read_text())
    for record in index["train"]:
        (root / "cut_short" / record[1]).unlink()
        (root / "scrambled" / record[0]).write_bytes(b"\x89PNG but not really")
    both = index | {"test": [*index["test"], index["train"][0]]}
    (root / "twice" / "nyu_v2_3task.json").write_text(json.dumps(both))
    index["train"][0][0] = "../../secret.png"
    (root / "leaving" / "nyu_v2_3task.json").write_text(json.dumps(index))
    return {name: str(root / name) for name in ("empty", "leaving", "cut_short", "scrambled", "twice")}


def snapshot(*folders: Path) -> set[tuple]:
    return {
        (path, path.stat().st_size, path.stat().st_mtime_ns if path.is_file() else 0)
        for folder in folders
        for path in folder.rglob("*")
    }


def words_of(script: str, words: str, place: dict[str, str], rooms: Path, dest: Path) -> list[str]:
    usual = UNPRUNED if script == AGREE else TINY
    given = [*usual.split(), "--data-root", str(rooms), "--dest", str(dest)]
    if script == EVALUATE:  # the file brings its settings
        given = ["--num-workers", "0", "--data-root", str(rooms), "--dest", str(dest)]
    return [*given, *words.format(**place).split()]


def assert_one_sentence(said: str, named: list[str]) -> None:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert "Traceback" not in said
    for name in named:
        assert name in errors[0], errors[0]


@pytest.mark.parametrize(("script", "words", "named"), CASES, ids=[f"{s[:3]} {w}" for s, w, _ in CASES])
def test_one_sentence_and_nothing_left(script, words, named, place, rooms, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    before = snapshot(Path(place["root"]), rooms, tmp_path)
    begin = time.process_time()
    end = call(script, words_of(script, words, place, rooms, tmp_path / "new" / "dest"), capsys)
    taken = time.process_time() - begin
    assert end.code == 2, end
    assert_one_sentence(end.err, named)
    assert taken < 5
    assert snapshot(Path(place["root"]), rooms, tmp_path) == before


@pytest.mark.parametrize("words", ["--method dispares", "--init-from {malicious}"])
def test_as_a_command(words, place, rooms, tmp_path):
    before = snapshot(Path(place["root"]))
    command = [sys.executable, CREATE, *words_of(CREATE, words, place, rooms, tmp_path / "dest")]
    end = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert end.returncode == 2
    assert_one_sentence(end.stderr, [])
    assert snapshot(Path(place["root"])) == before


def test_the_malicious_file_is_one(place):
    """Read without care it would have made its folder: the tests above show that nothing of it ran."""
    with Path(place["malicious"]).open("rb") as file:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(file, weights_only=True)
        file.seek(0)
        mark = Path(place["root"]) / "attacked"
        assert not mark.exists()
        torch.load(file, weights_only=False)
        assert mark.is_dir()
        mark.rmdir()
