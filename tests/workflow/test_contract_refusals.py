"""What a contract refuses before any work."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import workflow.contract
import workflow.contract_search
from tests.scripts import call
from tests.workflow.contracts import CREATE, NAME, Killed, dense, place, words

__all__ = ["dense", "place"]  # fixtures


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--max-drop", "seg=1"], "--max-drop gives no limit for task 'sn': sn=PERCENT, or sn=none"),
        (["--max-drop", "seg=1,ns=1"], "task 'ns' is not one of seg, sn, all"),
        (["--max-drop", "seg.miou=1,all=1"], "measure of seg 'miou' is not one of mIoU, pixel_acc"),
        (["--max-drop", "all=x"], "limit 'x' of 'all' is not a number of at least 0"),
        (["--max-drop", "all=-1"], "limit '-1' of 'all' is not a number of at least 0"),
        (["--max-drop", "all=inf"], "limit 'inf' of 'all' is not a number of at least 0"),
        (["--max-drop", "seg=1,seg=2,sn=1"], "--max-drop gives two limits for 'seg'"),
        (["--max-drop", "seg"], "--max-drop takes TASK=PERCENT, such as seg=1, not 'seg'"),
        (["--max-drop", "all=none"], "lets every task lose anything"),
        (["--max-drop", "all=1", "--ratio", "90"], "--max-drop decides the ratio: leave --ratio 90 out"),
        (["--max-drop", "all=1", "--preflight"], "--preflight knows nothing of --max-drop"),
        (["--max-drop", "all=1", "--set", "prune.ratio=80"], "prune.ratio 80"),
        (["--max-drop", "all=1", "--keep-ratio", "0.1"], "prune.keep_ratio 0.1"),
        (["--max-drop", "all=1", "--arbiter", "majority"], "prune.arbiter majority"),
        (["--max-drop", "all=1", "--shuffle"], "prune.shuffle True"),
        (["--max-drop", "all=1", "--method", "snip"], "such as disparse_pt, not 'snip'"),
        (["--max-drop", "all=1", "--method", "imp"], "such as disparse_pt, not 'imp'"),
        (["--max-drop", "all=1", "--budget", "erk"], "a contract takes 'global'"),
        (["--max-drop", "all=1", "--export-published", "x.pth"], "leave --export-published out"),
        (["--max-drop", "all=1", "--level", "0.999"], "level 0.999 needs at least 999 resamples, not 99"),
        (["--max-drop", "all=1", "--level", "2"], "it must be from 0.5 to below 1"),
        (["--max-drop", "all=1", "--granularity", "2:4"], "granularity '2:4' fixes what each layer keeps"),
        (["--max-drop", "all=1", "--set", "weighting.method=min_max"], "has no reference of task 'seg'"),
        (["--max-drop", "all=1", "--val-share", "0.3"], "the index has a split 'val' of its own"),
        (["--max-drop", "all=1", "--start-from", "best"], "prunes a trained dense network and there is no"),
    ],
)
def test_mistakes_are_told_before_any_work(more, said, many_rooms, place, capsys):
    before = sorted(path.name for path in place.iterdir())
    told = call(CREATE, words(place, many_rooms, *more), capsys)
    assert told.code == 2
    errors = [line for line in told.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert sorted(path.name for path in place.iterdir() if path.name[0] != ".") == before


def test_too_few_validation_images_are_told(rooms, place, capsys):
    told = call(CREATE, words(place, rooms, "--max-drop", "all=1"), capsys)
    assert told.code == 2 and "validation images holds" in told.err and "fewer than 8" in told.err


def test_a_larger_share_validates_only_where_the_dense_network_has_not_seen_it(
    many_rooms, place, tmp_path, capsys, monkeypatch
):
    data = tmp_path / "data"
    shutil.copytree(many_rooms, data)
    index = json.loads((data / "nyu_v2_3task.json").read_text())
    index["train"] += index.pop("val")
    (data / "nyu_v2_3task.json").write_text(json.dumps(index))
    command = words(place, data, "--max-drop", "all=1", "--val-share", "0.5")
    told = call(CREATE, command, capsys)
    assert told.code == 2
    assert (
        "was trained with --val-share 0.05, so on images that --val-share 0.5 would judge it by" in told.err
    )
    path = place / "final_nyuv2_baseline.pth"
    content = torch.load(path, weights_only=True)
    content["config"]["data"]["val_fraction"] = 0.6
    torch.save(content, path)

    def stop(*given, **more):
        raise Killed

    monkeypatch.setattr(workflow.contract_search, "make_optimizer", stop)
    with pytest.raises(Killed):  # nothing was wrong before the first training
        call(CREATE, [*command, "--max-drop", "seg.err=1,sn.mean=1"], capsys)
    assert (place / f"{NAME}_search.ckpt").is_file()
