"""Images without the target of a task, null in the record, through the commands."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from dataloaders.streams import permutation
from tests.scripts import TINY, call

INDEX = "nyu_v2_3task.json"


def without_labels(rooms: Path, root: Path, missing: dict[str, Iterable[int]]) -> list[str]:
    """Flags for a copy of the rooms in which these records of each split have no segmentation."""
    shutil.copytree(rooms, root)
    index = json.loads((root / INDEX).read_text())
    for split, places in missing.items():
        for place in places:
            index[split][place][1] = None
    (root / INDEX).write_text(json.dumps(index))
    return [*TINY.split(), "--dataset", "nyuv2", "--data-root", str(root)]


@pytest.mark.parametrize("method", ["disparse_static", "snip"])
def test_a_task_that_no_scored_batch_holds_is_named(method, rooms, tmp_path, capsys):
    scored = permutation(seed=0, epoch=0, count=9)[:6]  # three batches of two
    words = without_labels(rooms, tmp_path / "rooms", {"train": scored})
    made = call(
        "create_pruned_net.py", [*words, "--method", method, "--dest", str(tmp_path / "dest")], capsys
    )
    assert made.code == 2
    (error,) = [line for line in made.err.splitlines() if line.startswith("error")]
    assert error == (
        "error: task 'seg' has no target in any of the 3 batches that scores are taken on: "
        "a larger --num-batches may find some, --tasks leaves the task out"
    )
    assert not list((tmp_path / "dest").glob("*.pth"))


@pytest.mark.parametrize(
    "given",
    [
        ["create_pruned_net.py", "--method", "disparse_static", "--preflight"],
        ["launch_training.py", "--method", "disparse_dynamic", "--start-mask", "disparse_static"],
    ],
    ids=["long", "short"],
)
def test_a_preflight_that_meets_no_label_refuses_nothing(given, rooms, tmp_path, capsys):
    """It looks at the first images alone, and scores fewer batches than the command, which meets some."""
    words = without_labels(rooms, tmp_path / "rooms", {"train": range(8)})
    script, *more = given
    more += ["--set", "prune.num_batches=6", "--dest", str(tmp_path / "dest")]
    done = call(script, [*words, *more], capsys)
    assert done.code == 0, done.err
    assert "preflight" in more[2] or "preflight: every phase works" in done.err


def test_half_labelled_images_train_grow_and_are_counted(rooms, tmp_path, capsys):
    words = without_labels(rooms, tmp_path / "rooms", {"train": range(0, 9, 2), "test": [0]})
    given = [*words, "--method", "disparse_dynamic", "--dest", str(tmp_path / "dest")]
    one = ["--set", "data.batch_size=1"]  # so that every second batch has no segmentation
    trained = call("launch_training.py", [*given, *one], capsys)
    assert trained.code == 0, trained.err
    with (tmp_path / "dest" / "nyuv2_disparse_dynamic_90_training.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "train"]
    steps = {
        name: {int(row["step"]) for row in rows if row["name"] == name} for name in ("seg", "sn", "total")
    }
    assert steps["sn"] == steps["total"] == set(range(1, 13))
    assert 0 < len(steps["seg"]) < 12
    losses = {(int(row["step"]), row["name"]): float(row["value"]) for row in rows}
    for step in steps["total"] - steps["seg"]:
        assert losses[step, "total"] == pytest.approx(20 * losses[step, "sn"], rel=1e-5)
    scored = call("eval_pruned_net.py", given, capsys)
    assert scored.code == 0, scored.err
    assert "images: 2 (with a target: seg 1)" in scored.out
    result = json.loads((tmp_path / "dest" / "nyuv2_disparse_dynamic_90.json").read_text())
    assert (result["images"], result["task_images"]) == (2, {"seg": 1, "sn": 2})
