"""The files of a contract: what is never lost, what a stopped command goes on with, what is checked again."""

from __future__ import annotations

import json
import shutil
from math import inf
from types import SimpleNamespace

import pytest

import workflow.contract_search
import workflow.recheck
from tests.scripts import call
from tests.workflow.contracts import (
    CREATE,
    EVALUATE,
    LIMITS,
    NAME,
    Killed,
    certificate,
    checking,
    dense,
    made,
    place,
    words,
)
from workflow.contract_check import forgiven
from workflow.contract_search import Work
from workflow.files import Options

__all__ = ["dense", "made", "place"]  # fixtures


@pytest.fixture
def done(made, tmp_path):
    """A folder of its own with a finished contract."""
    return shutil.copytree(made, tmp_path / "done")


@pytest.mark.parametrize(
    ("options", "goes_on"),
    [
        (Options(), True),
        (Options(resume=True), True),
        (Options(overwrite=True), False),
        (Options(overwrite=True, resume=True), True),  # what a command that was stopped says to go on with
    ],
)
def test_overwrite_starts_anew_but_where_resume_goes_on(options, goes_on, tmp_path):
    work = Work(SimpleNamespace(dest=tmp_path, name="x"), None, options)
    (tmp_path / "x_limits.json").touch()
    assert (work.files.begun, work.files.finished) == (False, goes_on)
    (tmp_path / "x_search.ckpt").touch()
    assert (work.files.begun, work.files.finished) == (goes_on, False)


def test_the_dense_network_is_never_among_what_is_replaced(many_rooms, place, capsys):
    mine = shutil.copy(place / "final_nyuv2_baseline.pth", place / "mine.pth")
    more = ["--max-drop", LIMITS, "--name", "mine", "--init-from", str(mine), "--overwrite"]
    told = call(CREATE, words(place, many_rooms, *more), capsys)
    assert told.code == 2 and "mine.pth is the dense network, which the contract's would replace" in told.err
    assert mine.is_file()


def test_a_kill_while_an_old_contract_is_replaced_loses_nothing(many_rooms, done, capsys, monkeypatch):
    asked = words(done, many_rooms, "--max-drop", LIMITS)
    before = certificate(done)

    def stop(work):
        work.files.remove_rounds()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Work, "_remove_old", stop)
        with pytest.raises(Killed):
            call(CREATE, [*asked, "--overwrite"], capsys)
    assert (done / f"{NAME}_limits.json").is_file() and (done / f"{NAME}_search.ckpt").is_file()
    (done / f"{NAME}_search.csv").write_text("old")
    told = call(CREATE, asked, capsys)
    assert told.code == 0 and "made before, unchanged" not in told.out
    assert certificate(done) == before and (done / f"{NAME}_search.csv").read_text() != "old"


def test_a_finished_contract_is_checked_before_it_is_handed_out(many_rooms, done, capsys):
    asked = words(done, many_rooms, "--max-drop", LIMITS)
    told = call(CREATE, asked, capsys)
    assert told.code == 0 and "made before, unchanged" in told.out
    (done / f"{NAME}_search.png").rename(done / "elsewhere.png")
    told = call(CREATE, asked, capsys)
    assert told.code == 2 and f"{NAME}_search.png of" in told.err and "is gone: --overwrite" in told.err
    (done / "elsewhere.png").rename(done / f"{NAME}_search.png")
    shutil.copy(done / "final_nyuv2_baseline.pth", done / f"{NAME}.pth")
    told = call(CREATE, asked, capsys)
    assert told.code == 2 and f"{NAME}.pth is not the network of" in told.err


def test_a_finished_contract_of_another_method_is_not_handed_out(many_rooms, done, capsys):
    more = ["--max-drop", LIMITS, "--name", NAME, "--method", "disparse_fisher"]
    told = call(CREATE, words(done, many_rooms, *more), capsys)
    assert told.code == 2 and f"{NAME}_limits.json was started with --method disparse_pt, this" in told.err


def test_a_missing_test_image_is_told_before_the_search(many_rooms, place, tmp_path, capsys):
    rooms = shutil.copytree(many_rooms, tmp_path / "rooms")
    image = json.loads((rooms / "nyu_v2_3task.json").read_text())["test"][0][0]
    (rooms / image).unlink()
    told = call(CREATE, words(place, rooms, "--max-drop", LIMITS), capsys)
    assert told.code == 2 and image in told.err
    assert not (place / f"{NAME}_search.ckpt").exists()


def test_a_check_on_other_validation_images_is_refused(many_rooms, done, capsys):
    path = done / f"{NAME}_limits.json"
    content = certificate(done)
    content["validation"]["search"]["images"] += 1
    path.write_text(json.dumps(content))
    told = call(EVALUATE, checking(done, many_rooms, "val"), capsys)
    assert told.code == 2 and "20 validation images, and the contract was made with 21" in told.err
    assert call(EVALUATE, checking(done, many_rooms, "test"), capsys).code in (0, 1)


@pytest.mark.parametrize(("more", "expected"), [([], "bf16-mixed"), (["--precision", "32-true"], "32-true")])
def test_a_check_computes_as_the_contract_did(more, expected, many_rooms, done, capsys, monkeypatch):
    content = certificate(done)
    content["config"]["run"]["precision"] = "bf16-mixed"
    (done / f"{NAME}_limits.json").write_text(json.dumps(content))
    seen = []

    def stand_in(experiment, *given):
        seen.append(experiment.config.run.precision)
        return "", None

    monkeypatch.setattr(workflow.recheck, "recheck", stand_in)
    assert call(EVALUATE, checking(done, many_rooms, "val", *more), capsys).code == 0
    assert seen == [expected]


@pytest.mark.parametrize(
    ("limits", "protocol", "expected"),
    [
        ({"seg": 1.0, "sn": 1.0}, "paper", "mIoU of seg"),
        ({"seg.mIoU": 1.0}, "paper", "mIoU of seg"),
        ({"seg.mIoU": 1.0}, "metric", ""),
        ({"seg.err": 1.0, "sn": 1.0}, "paper", ""),
        ({"seg": inf, "sn": 1.0}, "paper", ""),
    ],
)
def test_a_measure_that_forgives_lost_classes_is_named(limits, protocol, expected):
    tasks = {
        "seg": SimpleNamespace(directions={"mIoU": None, "err": None}),
        "sn": SimpleNamespace(directions={"mean": None}),
    }
    run = SimpleNamespace(protocol=protocol)
    assert forgiven(SimpleNamespace(tasks=tasks, config=SimpleNamespace(run=run)), limits) == expected


def test_settings_are_shown_and_nothing_is_evaluated(done, many_rooms, capsys, monkeypatch):
    monkeypatch.setattr(workflow.recheck, "recheck", lambda *words: pytest.fail("evaluated"))
    end = call(EVALUATE, checking(done, many_rooms, "val", "--print-config"), capsys)
    assert end.code == 0 and "run.precision" in end.out
