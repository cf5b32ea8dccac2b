"""The benchmark of bounds, on small rooms: which figures it prints, and what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks import bounds
from tests.workflow.contracts import dense, place  # noqa: F401
from workflow.judging import Fall


@pytest.fixture
def told(place, many_rooms, capsys, monkeypatch):  # noqa: F811
    """Runs it on a network and one that is a little worse; what it prints."""
    saved = torch.load(place / "final_nyuv2_baseline.pth", weights_only=True)
    for name, value in saved["state"].items():
        if name.startswith("heads") and name.endswith("weight"):
            saved["state"][name] = value * 0.8
    torch.save(saved, place / "worse.pth")

    def run(*more, pruned="worse.pth"):
        given = ["--dataset", "nyuv2", "--data-root", str(many_rooms), "--config", str(place / "small.yaml")]
        given += ["--dense", str(place / "final_nyuv2_baseline.pth"), "--pruned", str(place / pruned)]
        monkeypatch.setattr("sys.argv", ["bounds", *given, *more])
        bounds.main()
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return run


def test_a_network_that_loses_is_bounded(told):
    asked = "--images", "10,20", "--samples", "8", "--limits", "seg.err,sn.mean"
    table = told(*asked)
    head = [row[:2] for row in table[2:-1]]
    assert head == [["10", "seg.err"], ["10", "sn.mean"], ["20", "seg.err"], ["20", "sn.mean"]]
    assert table[2][2] == table[4][2] != "0.00"
    assert 0 < float(table[4][3]) < float(table[2][3])  # more images leave less room
    assert told(*asked) == table


def test_a_network_loses_nothing_against_itself(told):
    asked = "--images", "10", "--samples", "2", "--limits", "seg.err"
    table = told(*asked, pruned="final_nyuv2_baseline.pth")
    assert table[2:-1] == [["10", "seg.err", "0.00", "0.00", "0.0", "%", "0"]]


def test_what_is_too_low_is_counted():
    true = {"a": Fall(2.0, 9.0), "b": Fall(-0.0, 9.0)}
    found = [{"a": Fall(1.0, bound), "b": Fall(0.0, 1.0)} for bound in (1.9, 2.0, 2.1, math.inf, 1.5)]
    assert bounds.rows(true, found, 47) == [
        ["47", "a", "2.00", "1.00", "40.0 %", "1"],
        ["47", "b", "0.00", "1.00", "0.0 %", "0"],
    ]


def test_samples_are_drawn_and_resampled_anew():
    seen = []
    population = SimpleNamespace(images=5, falls=lambda places, seed: seen.append((tuple(places), seed)))
    bounds.sampled(population, 4, 6, seed=1)
    places, seeds = zip(*seen, strict=True)
    assert len(set(seeds)) == 6 and len(set(places)) > 1
    assert all(len(of) == 4 and set(of) <= set(range(5)) for of in places)


def test_what_nothing_is_a_percentage_of_is_refused(told, monkeypatch):
    def refuse(judge):
        raise ValueError("nothing is a percentage of that")

    monkeypatch.setattr(bounds.Judge, "check", refuse)
    with pytest.raises(ValueError, match="nothing is a percentage of that"):
        told("--images", "10", "--samples", "2")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--images", "1"), "--images 1 is not at least 2"),
        (("--samples", "0"), "--samples 0 is not at least 1"),
    ],
)
def test_samples_that_say_nothing_are_refused(told, words, said, capsys):
    with pytest.raises(SystemExit):
        told(*words)
    assert said in capsys.readouterr().err
