"""What is said of scores on made-up data, of a narrow network, of other tasks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from configs.load import load
from dataloaders.synthetic import SETTINGS_FILE, write
from tests.scripts import TINY, call
from workflow.origin import OVERLAP, origin, remarks


def test_the_data_sets_own_settings_need_no_word(tmp_path):
    for dataset in ("nyuv2", "cityscapes", "taskonomy"):
        config = load(dataset)
        assert remarks(replace(config, data=replace(config.data, root=str(tmp_path)))) == []


def test_synthetic_rooms_are_known_by_the_file_that_they_come_with(tmp_path):
    write(tmp_path / "rooms", "nyuv2", 1, size=(32, 32))
    config = load("nyuv2", flags={"data": {"root": str(tmp_path / "rooms")}})
    assert remarks(config) == ["synthetic rooms"]


@pytest.mark.filterwarnings("ignore:image")
def test_images_that_are_learnt_from_and_scored_on_are_remarked(rooms, tmp_path):
    index = json.loads((rooms / "nyu_v2_3task.json").read_text())
    sound, both = tmp_path / "sound", tmp_path / "both"
    for root, more in ((sound, []), (both, index["train"][:1])):
        root.mkdir()
        (root / "nyu_v2_3task.json").write_text(json.dumps(index | {"test": [*index["test"], *more]}))
    for root, words in ((sound, []), (both, [OVERLAP])):
        config = load("nyuv2", flags={"data": {"root": str(root), "allow_overlap": True}})
        assert remarks(config) == words


def test_network_and_tasks_that_are_not_the_data_sets_own(tmp_path):
    flags = {
        "data": {"root": str(tmp_path), "tasks": ["depth", "seg"], "classes": 13},
        "model": {"width": 0.125, "backbone": "resnet18"},
    }
    assert remarks(load("nyuv2", flags=flags))[:3] == ["width 0.125", "backbone resnet18", "13 classes"]
    assert len(remarks(load("nyuv2", flags=flags))) == 4
    # the order of tasks is no difference
    assert remarks(load("nyuv2", flags={"data": {"root": str(tmp_path), "tasks": ["sn", "seg"]}})) == []


def test_the_origin_of_a_file_comes_before_that_of_the_settings(tmp_path):
    config = load("nyuv2", flags={"data": {"root": str(tmp_path)}, "model": {"width": 0.125}})
    assert origin(["synthetic rooms", "width 0.125"], config) == ["synthetic rooms", "width 0.125"]
    assert origin([], config) == ["width 0.125"]


def test_what_began_on_synthetic_rooms_says_so_on_other_data(rooms, tmp_path, capsys):
    """A mask made there, trained elsewhere and evaluated elsewhere; a run that is resumed elsewhere, too."""
    other = tmp_path / "other"
    shutil.copytree(rooms, other)
    (other / SETTINGS_FILE).unlink()
    given = [*TINY.split(), "--method", "magnitude", "--max-iters", "2", "--set", "run.preflight=false"]
    dest = ["--dest", str(tmp_path / "out")]

    def run(script, *words):
        said = call(script, [*words, *dest], capsys)
        assert said.code == 0, said.err

    run("create_pruned_net.py", *given, "--data-root", str(rooms))
    run("launch_training.py", *given, "--data-root", str(other))
    run("eval_pruned_net.py", *TINY.split(), "--method", "magnitude", "--data-root", str(other))
    for name in ("nyuv2_magnitude_90", "final_nyuv2_magnitude_90"):
        content = torch.load(tmp_path / "out" / f"{name}.pth", weights_only=True)
        assert content["origin"][0] == "synthetic rooms"
    result = json.loads((tmp_path / "out/nyuv2_magnitude_90.json").read_text())
    assert result["remarks"] == content["origin"]
    assert any("synthetic rooms" in note for note in result["notes"])
