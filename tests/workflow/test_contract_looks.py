"""How often the certificate's half has been looked at: each contract once, by dense network."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from configs.load import load
from tests.scripts import call
from workflow.contract_looks import check_looks, note_look

from .contracts import CREATE, dense, place, words  # noqa: F401


@pytest.fixture
def asked(tmp_path):
    """An experiment with these settings."""
    config = load("nyuv2")

    def with_(method="disparse_pt", contract=(), run=()):
        changed = replace(
            config, contract=replace(config.contract, **dict(contract)), run=replace(config.run, **dict(run))
        )
        return SimpleNamespace(config=changed, dest=tmp_path, method=method)

    return with_


def test_every_other_contract_of_the_dense_network_counts_once(asked):
    first, second = asked(contract={"max_drop": ("all=1",)}), asked(contract={"max_drop": ("all=2",)})
    assert [note_look(first, "a"), note_look(first, "a"), note_look(second, "a")] == [0, 0, 1]
    assert note_look(first, "a") == 0  # made anew, it looks as early as it did
    assert note_look(asked("disparse_fisher", {"max_drop": ("all=1",)}), "a") == 2
    assert note_look(asked(contract={"max_drop": ("all=1",)}, run={"seed": 7}), "a") == 3
    assert note_look(second, "b") == 0  # another dense network


def test_what_changes_no_result_is_no_other_contract(asked):
    first, other = asked(), asked(run={"logger": "none", "checkpoint_every": 7})
    assert [note_look(first, "a"), note_look(other, "a")] == [0, 0]


@pytest.mark.parametrize("text", ["{", "7", "[]", '{"dense": "a"}', "[" * 5000])
def test_a_file_of_something_else_is_named(asked, text, tmp_path):
    (tmp_path / "nyuv2_contract_looks.jsonl").write_text(text)
    with pytest.raises(ValueError, match="nyuv2_contract_looks.jsonl is not the list of contracts"):
        note_look(asked(), "a")
    with pytest.raises(ValueError, match="move it away"):
        check_looks(asked())
    assert (tmp_path / "nyuv2_contract_looks.jsonl").read_text() == text


def test_a_file_of_something_else_is_named_before_the_search(place, many_rooms, capsys):  # noqa: F811
    (place / "nyuv2_contract_looks.jsonl").write_text("{")
    said = call(CREATE, words(place, many_rooms, "--max-drop", "all=900"), capsys)
    assert said.code == 2 and "is not the list of contracts" in said.err
    assert "round 0" not in said.out + said.err


def test_a_second_contract_says_that_there_was_a_first(place, many_rooms, capsys):  # noqa: F811
    loose = ["--max-drop", "seg.err=900,sn=9000"]
    assert call(CREATE, words(place, many_rooms, *loose), capsys).code == 0
    said = call(CREATE, words(place, many_rooms, *loose, "--level", "0.9", "--name", "again"), capsys)
    told = "validation images were looked at to certify 1 other contract of this dense network before ("
    assert said.code == 0 and told in said.err + said.out
    assert "nyuv2_contract_looks.jsonl" in said.out.splitlines()[-1]
    for name, before in (("nyuv2_disparse_pt_contract", 0), ("again", 1)):
        content = json.loads((place / f"{name}_limits.json").read_text())
        assert content["validation"]["certificate"]["looked_before"] == before
    shutil.rmtree(place)
