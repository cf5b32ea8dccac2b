"""Scores against cost, from result files and speeds alone."""

import json
import math

import pytest

from comparison import frontier
from comparison.frontier import Point, points_of

from .examples import write


def speed(folder, name, *rows, megabytes=(8.0, 2.0)):
    """rows: (runtime, kind, ms, memory); only the engine counts multiply-adds: 10 of all, 3 kept."""
    content = {
        "file": f"somewhere/best_{name}.pth",
        "bytes": {"dense": megabytes[0] * 1e6, "sparse": megabytes[1] * 1e6},
        "rows": [
            {
                "runtime": runtime,
                "kind": kind,
                "batch": 1,
                "threads": 2,
                "milliseconds": {"median": ms},
                "memory": memory,
                **({"operations": {"all": 10.0, "kept": 3.0}} if kind == "ours" else {}),
            }
            for runtime, kind, ms, memory in rows
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_speed.json").write_text(json.dumps(content))


@pytest.fixture
def study(tmp_path):
    write(tmp_path, "baseline", 0, (50.0, 0.2, 0.4))
    write(tmp_path, "baseline", 1, (50.0, 0.2, 0.4))
    write(tmp_path, "snip", 0, (40.0, 0.2, 0.4))  # mIoU -20 %: delta = (-20 + 0) / 2 / 2 tasks = -5
    write(tmp_path, "snip", 1, (45.0, 0.2, 0.4))  # -2.5
    speed(tmp_path, "nyuv2_baseline", ("PyTorch", "fp32", 80.0, 500))
    speed(tmp_path, "nyuv2_snip_90", ("PyTorch", "fp32", 80.0, 500), ("sparse engine", "ours", 20.0, 100))
    return tmp_path


def test_every_network_stands_in_every_runtime(study):
    assert points_of([study], 1, 2) == [
        Point("dense", "PyTorch", 0.0, 80.0, pytest.approx(math.nan, nan_ok=True), 8.0, 500.0),
        Point("snip 90 %", "PyTorch", pytest.approx(-3.75), 80.0, 10.0, 8.0, 500.0),
        Point("snip 90 %", "sparse engine", pytest.approx(-3.75), 20.0, 3.0, 2.0, 100.0),
    ]


def test_the_only_dense_network_has_any_name(study):
    for seed in (0, 1):
        path = write(study, "baseline", seed, (50.0, 0.2, 0.4), name="mydense")
        path.rename(path.with_name("mydense.json"))
    speed(study, "mydense", ("PyTorch", "fp32", 80.0, 500))
    found = {point.network: point.delta for point in points_of([study], 1, 2)}
    assert found == {"mydense": 0.0, "snip 90 %": pytest.approx(-3.75)}
    write(study, "baseline", 0, (50.0, 0.2, 0.4), name="another")
    write(study, "baseline", 1, (50.0, 0.2, 0.4), name="another")
    with pytest.raises(ValueError, match="several and none by the name nyuv2_baseline: delta is against it"):
        points_of([study], 1, 2)


def test_networks_for_one_task_stand_beside_the_others(study):
    write(study, "baseline", 0, (50.0, 0.2, 0.4), name="nyuv2_baseline+tasks=seg")
    (study / "seed0" / "nyuv2_baseline.json").rename(study / "seed0" / "nyuv2_baseline+tasks=seg.json")
    write(study, "baseline", 0, (50.0, 0.2, 0.4))
    assert len(points_of([study], 1, 2)) == 3


def test_the_frontier_is_what_nothing_beats():
    def point(name, delta, latency):
        return Point(name, "x", delta, latency, 1.0, 1.0, 1.0)

    points = [point("a", 0, 10), point("b", -1, 5), point("c", -2, 6), point("d", 0, 12), point("e", -1, 4)]
    points.append(point("f", math.nan, 1))
    assert [at.network for at in frontier.frontier(points, lambda at: at.latency)] == ["e", "a"]


def test_a_picture_and_a_table_are_written(study, capsys):
    assert frontier.main([str(study), "--dest", str(study / "out")]) == 0
    assert "compared 2 networks, 3 points." in capsys.readouterr().out
    lines = (study / "out" / "frontier.md").read_text().splitlines()
    assert "| snip 90 % * | sparse engine | -3.75 | 20.0 | 3.0 | 2.0 | 100.0 |" in lines
    assert "| dense * | PyTorch | 0.00 | 80.0 | - | 8.0 | 500.0 |" in lines
    assert (study / "out" / "frontier.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("ending", "broken"), [("md", "markdown"), ("png", "draw")])
def test_files_are_written_whole_or_not_at_all(study, capsys, monkeypatch, ending, broken):
    path = study / "out" / f"frontier.{ending}"
    path.parent.mkdir()
    path.write_text("earlier")

    def full_disk(*how, **more):
        raise OSError(28, "No space left on device")

    name = "comparison.frontier.markdown" if broken == "markdown" else "matplotlib.figure.Figure.savefig"
    monkeypatch.setattr(name, full_disk)
    assert frontier.main([str(study), "--dest", str(study / "out")]) == 2
    assert f"error: cannot write {path}: No space left on device" in capsys.readouterr().err
    assert path.read_text() == "earlier"
    assert not [left for left in path.parent.iterdir() if left.name.endswith(".part")]


def test_scores_of_other_images_are_refused(study):
    write(study, "baseline", 0, (50.0, 0.2, 0.4), samples=12, first_sample="a.png")
    write(study, "snip", 0, (40.0, 0.2, 0.4), samples=3, first_sample="a.png")
    with pytest.raises(ValueError, match="scores of other images do not stand side by side: .* of 12 from a"):
        points_of([study], 1, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda at: [path.unlink() for path in at.rglob("*baseline.json")], "no result of the dense network"),
        (lambda at: [path.unlink() for path in at.rglob("*_speed.json")], "no \\*_speed.json in"),
        (lambda at: (at / "nyuv2_snip_90_speed.json").write_text("{}"), "is not what prune_utils.deploy"),
    ],
)
def test_what_is_missing_or_damaged_is_named(study, change, says):
    change(study)
    with pytest.raises(ValueError, match=says):
        points_of([study], 1, 2)
