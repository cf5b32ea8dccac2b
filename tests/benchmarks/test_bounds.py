"""The benchmark of bounds, on small rooms: which figures it prints, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from benchmarks import bounds
from tests.workflow.contracts import dense, place, words  # noqa: F401


@pytest.fixture
def told(place, many_rooms, capsys, monkeypatch):  # noqa: F811
    """Runs it on a network and one that is a little worse; what it prints."""
    saved = torch.load(place / "final_nyuv2_baseline.pth", weights_only=True)
    for name, value in saved["state"].items():
        if name.startswith("heads") and name.endswith("weight"):
            saved["state"][name] = value * 0.8
    torch.save(saved, place / "worse.pth")

    def run(*more, pruned="worse.pth"):
        given = [
            *words(place, many_rooms, "--dataset", "nyuv2", "--max-drop", "seg.err=1,sn=none"),
            *("--dense", str(place / "final_nyuv2_baseline.pth"), "--pruned", str(place / pruned)),
        ]
        monkeypatch.setattr("sys.argv", ["bounds", *given, *more])
        bounds.main()
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return run


def test_a_network_that_loses_is_bounded(told):
    table = told("--images", "10,20", "--samples", "8")
    rows = [row for row in table if row[1:2] == ["seg.err"]]
    assert [row[0] for row in rows] == ["10", "20"] and rows[0][2] == rows[1][2]
    assert 0 < float(rows[1][3]) < float(rows[0][3])  # more images leave less room
    assert all(float(row[4]) in [12.5 * count for count in range(9)] for row in rows)
    assert told("--images", "10,20", "--samples", "8") == table


def test_a_network_loses_nothing_against_itself(told):
    table = told("--images", "10", "--samples", "2", pruned="final_nyuv2_baseline.pth")
    assert ["10", "seg.err", "0.00", "0.00", "0.0", "%"] in table


def test_a_sample_of_one_image_is_refused(told):
    with pytest.raises(ValueError, match="--images 1 --samples 2: at least 2 images and 1 sample"):
        told("--images", "1", "--samples", "2")
