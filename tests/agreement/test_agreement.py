"""iou_analysis.py from data to files, and the advice that follows from a watershed."""

import ast
import json
import sys

import numpy as np
import pytest
import torch

import iou_analysis
from agreement.analysis import Sample, branch_after, describe_curve
from agreement.figures import against_sparsity, agreement_bars, bars_of
from agreement.files import paths, plain_text, tables
from agreement.files import write as write_files
from agreement.overlap import overlap
from agreement.reading import read_result
from dataloaders.synthetic import write
from workflow import terminal

SMALL = [
    *("--backbone", "resnet18", "--width", "0.0625", "--num-workers", "0", "--device", "cpu"),
    *("--set", "data.crop=33", "--set", "data.batch_size=2"),
]


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    root = tmp_path_factory.mktemp("rooms")
    write(root, "nyuv2", 8, size=(48, 64))
    return root


def analyse(monkeypatch, root, dest, *more):
    words = ["iou_analysis.py", "--data-root", str(root), "--dest", str(dest), *SMALL, *more]
    monkeypatch.setattr(sys, "argv", words)
    terminal.run(iou_analysis.main)


def test_the_script_writes_everything(monkeypatch, rooms, tmp_path, capsys):
    more = ("--num_batches", "2", "--seeds", "2", "--keep-ratios", "0.1,0.5")
    analyse(monkeypatch, rooms, tmp_path, *more)
    result = json.loads((tmp_path / "nyuv2_iou.json").read_text())
    assert (result["seeds"], result["num_batches"], result["score_init"]) == ([0, 1], 2, "xavier")
    assert [row["name"] for row in result["layers"] if row["shortcut"]] == [
        f"backbone.stages.{stage}.0.shortcut.0" for stage in (1, 2, 3)
    ]
    assert [curve["keep_ratio"] for curve in result["curves"]] == [0.1, 0.5]
    for curve in result["curves"]:
        assert len(curve["layers"]) == len(result["layers"]) == 20
        assert all(len(row["by_seed"]) == 2 for row in curve["layers"])
        assert curve["overall"]["low"] <= curve["overall"]["mean"] <= curve["overall"]["high"]
        assert list(curve["pairs"]["stages"]) == ["stem", *(f"stages.{stage}" for stage in range(4))]
        # two tasks: the pair is all there is
        assert curve["pairs"]["overall"][0][1] == pytest.approx(curve["overall"]["mean"])
        kept = sum(curve["density"]["seg"].values())
        assert 0 < kept < len(curve["density"]["seg"])
    assert result["curves"][0]["sparsity"] > result["curves"][1]["sparsity"]
    plain = ast.literal_eval((tmp_path / "nyuv2_iou.txt").read_text())
    assert len(plain) == 17 and not any(".ds." in name for name in plain)
    assert list(plain)[:2] == ["backbone.conv1", "backbone.blocks.0.0.conv1"]
    assert plain["backbone.conv1"] == result["curves"][0]["layers"][0]["mean"]
    assert (tmp_path / "nyuv2_iou.png").read_bytes().startswith(b"\x89PNG")
    assert "keep ratio 0.5:" in capsys.readouterr().out


def test_one_pass_serves_all_ratios_and_seeds_repeat(monkeypatch, rooms, tmp_path):
    base = ("--num-batches", "1")
    analyse(monkeypatch, rooms, tmp_path / "a", *base, "--keep-ratios", "0.1,0.3", "--seeds", "2")
    analyse(monkeypatch, rooms, tmp_path / "b", *base, "--keep-ratios", "0.3", "--seeds", "1,")
    both, one = (json.loads((tmp_path / name / "nyuv2_iou.json").read_text()) for name in "ab")
    assert one["seeds"] == [1]
    for row, other in zip(both["curves"][1]["layers"], one["curves"][0]["layers"], strict=True):
        assert row["by_seed"][1] == other["by_seed"][0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tasks", "seg"), "at least two tasks"),
        (("--keep-ratios", "0.1,x"), "--keep-ratios needs different numbers"),
        (("--keep-ratios", "1.5"), "--keep-ratios 1.5 is not a share above 0 and up to 1"),
        (("--seeds", "0"), "--seeds 0 asks for no seed"),
        (("--seeds", "1,1"), "--seeds needs different whole numbers"),
        (("--init-from", "none.pth"), "none.pth"),
        (
            ("--set", "prune.keep_ratio=0.3"),
            "keep_ratio 0.3 would change nothing here: --keep-ratios 0.3",
        ),
        (("--set", "prune.scope=backbone"), "prune.scope backbone would change nothing here: leave it out"),
        (("--set", "prune.protect=[stem]"), "prune.protect stem would change nothing here: leave it out"),
        (("--set", "prune.granularity=channel"), "prune.granularity channel would change nothing here"),
    ],
)
def test_mistakes_are_one_sentence(monkeypatch, rooms, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        analyse(monkeypatch, rooms, tmp_path, "--num-batches", "1", *more)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_existing_files_are_not_replaced(monkeypatch, rooms, tmp_path, capsys):
    (tmp_path / "nyuv2_iou.txt").write_text("mine")
    with pytest.raises(SystemExit):
        analyse(monkeypatch, rooms, tmp_path)
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "nyuv2_iou.txt").read_text() == "mine"


def test_trained_weights_are_scored_as_they_are(monkeypatch, rooms, tmp_path):
    from models.multitask import MultiTaskNet

    network = MultiTaskNet({"seg": 40, "sn": 3}, "resnet18", 0.0625)
    torch.save(network.state_dict(), tmp_path / "dense.pth")
    more = ("--num-batches", "1", "--init-from", str(tmp_path / "dense.pth"))
    analyse(monkeypatch, rooms, tmp_path, *more)
    result = json.loads((tmp_path / "nyuv2_iou.json").read_text())
    assert (result["weights"], result["score_init"]) == ("dense.pth", "own")


def test_a_sparse_network_is_measured_on_what_it_keeps(monkeypatch, rooms, tmp_path):
    import create_pruned_net

    words = ["create_pruned_net.py", "--data-root", str(rooms), "--dest", str(tmp_path), *SMALL]
    words += ["--method", "random", "--budget", "uniform", "--ratio", "75", "--name", "sparse"]
    monkeypatch.setattr(sys, "argv", words)
    terminal.run(create_pruned_net.main)
    more = ("--num-batches", "1", "--init-from", str(tmp_path / "sparse.pth"), "--keep-ratios", "0.2,1")
    analyse(monkeypatch, rooms, tmp_path, *more)
    few, every = json.loads((tmp_path / "nyuv2_iou.json").read_text())["curves"]
    assert every["overall"]["mean"] == every["chance"] == 1 and every["sparsity"] == 0
    assert set(every["density"]["seg"].values()) == {1.0}  # of the kept weights, not of all
    assert 0 < few["chance"] < few["overall"]["mean"] < 1 and 0 < few["sparsity"] < 1


# ------------------------------------------------------- without a network
LAYERS = [
    {"name": f"backbone.{unit}.{conv}", "unit": unit, "stage": unit.rpartition(".")[0] or unit}
    | {"shortcut": "shortcut" in conv, "owners": ["a", "b"], "weights": 10}
    for unit, convs in (
        ("stem", ("conv",)),
        ("stages.0.0", ("conv1", "conv2")),
        ("stages.1.0", ("conv1", "conv2", "shortcut.0")),
    )
    for conv in convs
]


def sample(both):
    """Two tasks that keep ten weights of twenty in every layer, so many of them the same."""
    overlaps = {}
    for row, same in zip(LAYERS, both, strict=True):
        a = torch.arange(20) < 10
        overlaps[row["name"]] = overlap({"a": a, "b": a.roll(10 - same)})
    density = {task: {name: 0.5 for name in overlaps} for task in "ab"}
    return Sample(overlaps, density, 0.5)


def test_the_watershed_says_where_to_branch():
    late, early = [10, 10, 10, 10, 1, 10], [10, 10, 1, 1, 1, 10]
    curve = describe_curve([sample(late), sample(late), sample(early)], LAYERS, ["a", "b"])
    found = curve["watershed"]
    assert found["layer"] == "backbone.stages.1.0.conv2"
    assert found["branch_after"] == "stages.0.0"
    assert found["confidence"] == 2 / 3
    assert found["by_seed"][2] == "backbone.stages.0.0.conv2"
    assert curve["layers"][0]["mean"] == 1.0
    # a shortcut's drop beside the trunk is no watershed
    other = describe_curve([sample([10, 10, 10, 10, 10, 1])], LAYERS, ["a", "b"])["watershed"]
    assert (other["layer"], other["confidence"], other["branch_after"]) == (None, 1.0, None)


def test_branch_after_is_the_last_unit_before_the_layer():
    assert branch_after(LAYERS, "backbone.stages.1.0.conv1") == "stages.0.0"
    assert branch_after(LAYERS, "backbone.stages.0.0.conv2") == "stem"
    assert branch_after(LAYERS, "backbone.stem.conv") is None


def test_tables_and_plain_text_leave_no_layer_out():
    curve = {"keep_ratio": 0.5} | describe_curve([sample([10, 10, 10, 10, 1, 10])], LAYERS, ["a", "b"])
    result = {"tasks": ["a", "b"], "seeds": [0], "layers": LAYERS, "curves": [curve]}
    text = tables(result)
    assert all(row["name"] in text for row in LAYERS)
    assert "--branch-after stages.0.0" in text and "1 of 1" in text
    names = ["conv1", "blocks.0.0.conv1", "blocks.0.0.conv2", "blocks.1.0.conv1", "blocks.1.0.conv2"]
    assert list(ast.literal_eval(plain_text(result))) == [f"backbone.{name}" for name in names]


def of_nothing():
    """What an analysis finds where no task keeps a shared weight."""
    none = torch.zeros(20, dtype=torch.bool)
    overlaps = {row["name"]: overlap({"a": none, "b": none}) for row in LAYERS}
    density = {task: {name: 0.0 for name in overlaps} for task in "ab"}
    curve = {"keep_ratio": 0.1} | describe_curve([Sample(overlaps, density, 1.0)], LAYERS, ["a", "b"])
    return {"dataset": "nyuv2", "tasks": ["a", "b"], "seeds": [0], "layers": LAYERS, "curves": [curve]}


def test_tasks_that_keep_nothing_are_written_read_and_drawn(tmp_path):
    result = of_nothing()
    where = paths(tmp_path, "none")
    write_files(result, where)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.json", "none.png", "none.txt"]
    again = read_result(where["json"])
    assert again["curves"][0]["chance"] is None and again["curves"][0]["overall"]["mean"] is None
    (axes,) = agreement_bars([bars_of(again)]).axes
    assert not axes.collections  # no mark of random masks
    keys = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "random masks of these densities" not in keys and "agreement" in keys
    line, random = against_sparsity([again]).axes[0].lines
    assert np.isnan(line.get_ydata()).all() and np.isnan(random.get_ydata()).all()


def test_a_picture_that_cannot_be_drawn_leaves_no_file(tmp_path, monkeypatch):
    def broken(rows):
        raise ValueError("no picture")

    monkeypatch.setattr("agreement.files.agreement_bars", broken)
    with pytest.raises(ValueError, match="no picture"):
        write_files(of_nothing(), paths(tmp_path, "none"))
    assert list(tmp_path.iterdir()) == []
