"""Granularities through the commands: made, trained, evaluated and exported as any other network."""

import importlib.util
import json

import pytest
import torch

from prune_utils.deploy.patterns import pattern_of
from prune_utils.granularity import check_parts, find_granularity
from tests.test_scripts import call, place, refused, saved  # noqa: F401  place is a fixture

FAST = ("--set", "run.preflight=false", "--set", "model.width=0.0625")


@pytest.mark.parametrize(
    ("granularity", "words", "ratio"),
    [("2:4", (), "50"), ("kernel", ("--ratio", "80", "--ratio-of", "macs"), "80")],
)
def test_from_the_mask_to_the_file_for_a_device(place, capsys, granularity, words, ratio):  # noqa: F811
    name, out = f"parts_{ratio}", place / "out"
    asked = ("--granularity", granularity, *words, "--name", name, *FAST)
    call(place, "create_pruned_net.py", *asked)
    text = capsys.readouterr().out
    assert "multiply-adds of these for an image of 48 x 64" in text
    call(place, "launch_training.py", *asked)
    content = saved(out / f"best_{name}.pth")
    proof = content["certificate"]
    check_parts(find_granularity(granularity), content["mask"])
    assert proof["asked"]["resolution"] == [48, 64]
    if granularity == "2:4":
        assert proof["ratio"] == 50 and "backbone.stem.conv" not in proof["layers"]
        left = proof["of_all"]["left_out"]["left dense, not divided by granularity 2:4"]
        assert list(left) == ["backbone.stem.conv.weight"]
    else:
        dearest = 9 * max(proof["asked"]["uses"].values())
        assert 0 <= proof["asked_keep"] - proof["macs"]["kept"] < dearest
    call(place, "eval_pruned_net.py", "--name", name, "--ratio", ratio, evaluate=True)
    assert json.loads((out / f"{name}.json").read_text())["certificate"] == proof
    if granularity == "2:4" and importlib.util.find_spec("onnx"):
        export(place, name)
        found = pattern_of(place / f"{name}.onnx")
        assert found.groups == proof["units"]["total"] and not found.wrong
        assert found.dense == ("backbone.stem.conv",)


def export(folder, name):
    import runpy
    import sys

    words = ["--weights", str(folder / "out" / f"best_{name}.pth"), "--format", "onnx"]
    before, sys.argv = sys.argv, ["export_net.py", *words, "--out", str(folder / f"{name}.onnx")]
    try:
        runpy.run_path("export_net.py", run_name="__main__")
    finally:
        sys.argv = before


def test_what_contradicts_the_file_or_the_pattern_is_refused(place, capsys):  # noqa: F811
    asked = ("--granularity", "2:4", *FAST)
    said = refused(capsys, place, "create_pruned_net.py", *asked, "--ratio", "90", "--name", "never")
    assert said == "error: granularity 2:4 removes exactly 50 %: ratio 50, not 90"
    call(place, "create_pruned_net.py", *asked, "--name", "twos", "--method", "magnitude")
    words = ("--ratio", "50", "--name", "twos", "--method", "magnitude", *FAST)
    said = refused(capsys, place, "launch_training.py", *words)
    assert "twos.pth was made with --granularity 2:4, this command says --granularity weight" in said
    content = saved(place / "out" / "twos.pth")
    name = "backbone.stages.0.0.conv1.weight"
    kept = content["mask"][name].reshape(-1)
    first, gone = kept.nonzero()[0], (~kept).nonzero()[-1]
    kept[first], kept[gone] = False, True  # the counts stay, two groups do not
    content["state"][name].reshape(-1)[first] = 0
    torch.save(content, place / "out" / "forged.pth")
    weights = ("--weights", str(place / "out" / "forged.pth"), "--ratio", "50")
    said = refused(capsys, place, "eval_pruned_net.py", *weights, evaluate=True)
    assert f"layer '{name}' keeps another number than 2 in 2 groups of 4" in said
