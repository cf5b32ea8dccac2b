"""What is said of scores on made-up data, of a narrow network, of other tasks."""

from __future__ import annotations

from dataclasses import replace

from configs.load import load
from dataloaders.synthetic import write
from workflow.origin import remarks


def test_the_data_sets_own_settings_need_no_word(tmp_path):
    for dataset in ("nyuv2", "cityscapes", "taskonomy"):
        config = load(dataset)
        assert remarks(replace(config, data=replace(config.data, root=str(tmp_path)))) == []


def test_synthetic_rooms_are_known_by_the_file_that_they_come_with(tmp_path):
    write(tmp_path / "rooms", "nyuv2", 1, size=(32, 32))
    config = load("nyuv2", flags={"data": {"root": str(tmp_path / "rooms")}})
    assert remarks(config) == ["synthetic rooms"]


def test_network_and_tasks_that_are_not_the_data_sets_own(tmp_path):
    flags = {
        "data": {"root": str(tmp_path), "tasks": ["depth", "seg"], "classes": 13},
        "model": {"width": 0.125, "backbone": "resnet18"},
    }
    assert remarks(load("nyuv2", flags=flags))[:3] == ["width 0.125", "backbone resnet18", "13 classes"]
    assert len(remarks(load("nyuv2", flags=flags))) == 4
    # the order of tasks is no difference
    assert remarks(load("nyuv2", flags={"data": {"root": str(tmp_path), "tasks": ["sn", "seg"]}})) == []
