"""The end of a study: what failed, and the table of its own runs, whatever else lies below its folder."""

import sys

import pytest

import reproduce
from common.interrupt import StopRequest
from tests.comparison.examples import write


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Ends a study of snip and rigl whose runs are there, or fail by these names."""

    def end(*failing):
        words = ["--dest", str(tmp_path), "--seeds", "1", "--methods", "snip,rigl", "--data-root", "nowhere"]
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
        monkeypatch.setattr("study.runner.check", lambda job: None)
        monkeypatch.setattr(reproduce, "check_split", lambda *of: None)
        monkeypatch.setattr(reproduce, "check_images", lambda *of: None)
        monkeypatch.setattr(reproduce, "tried", lambda *of: {})
        monkeypatch.setattr(reproduce, "run_here", lambda jobs, *of: [j for j in jobs if j.name in failing])
        reproduce.work(reproduce.arguments(), StopRequest())

    for method in ("baseline", "snip", "rigl"):
        write(tmp_path, method, 0, (20.0, 4.0, 0.5))
    return end


def test_the_table_is_of_the_own_runs_alone(study, tmp_path, capsys):
    write(tmp_path / "first", "snip", 0, (90.0, 4.0, 0.5))
    write(tmp_path / "other", "random", 0, (10.0, 4.0, 0.5), protocol="paper")
    write(tmp_path, "lamp", 0, (10.0, 4.0, 0.5))
    (tmp_path / "broken.json").write_text("{")
    study()
    shown = capsys.readouterr().out
    assert "trained in protocol metric" in shown
    rows = [line.split() for line in shown.splitlines() if "20.00" in line]
    assert [next(name for name in ("rigl", "snip", "dense") if name in row) for row in rows] == [
        "dense",
        "snip",
        "rigl",
    ]
    assert "90.00 " not in shown and "lamp" not in shown and "random" not in shown


def test_failed_runs_are_told_before_the_table(study, tmp_path, capsys):
    (tmp_path / "seed0" / "nyuv2_rigl_90.json").unlink()
    with pytest.raises(ValueError, match="^1 of 3 runs failed; the same command tries them again$"):
        study("nyuv2_rigl_90")
    shown = capsys.readouterr().out
    assert 0 <= shown.index("failed: seed 0 nyuv2_rigl_90\n") < shown.index("trained in protocol metric")


def test_failed_runs_are_told_where_no_table_can_be_made(study, tmp_path, capsys):
    (tmp_path / "seed0" / "nyuv2_snip_90.json").write_text("{")
    with pytest.raises(ValueError, match="nyuv2_snip_90.json is not a JSON file"):
        study("nyuv2_rigl_90")
    assert capsys.readouterr().out.endswith("failed: seed 0 nyuv2_rigl_90\n")
