"""Holding the vote of a network again, and dropping what only absent tasks wanted."""

import runpy
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from configs.load import as_tree, load
from prune_utils.choosing import choose
from prune_utils.methods import method
from prune_utils.plan import Plan, Settings, make_plan
from workflow import voted

ROOT = Path(__file__).resolve().parents[2]


def test_only_the_weights_of_absent_tasks_go():
    scores = {
        "seg": {"trunk": torch.tensor([9.0, 8.0, 1.0, 2.0]), "seg": torch.tensor([7.0, 3.0])},
        "sn": {"trunk": torch.tensor([9.0, 1.0, 8.0, 2.0]), "sn": torch.tensor([3.0, 7.0])},
    }
    # the three best of six of either task
    mask = {
        "trunk": torch.tensor([True, True, True, False]),
        "seg": torch.tensor([True, False]),
        "sn": torch.tensor([False, True]),
    }
    found = voted.voted_mask(scores, mask, ("seg",))
    assert found["trunk"].tolist() == [True, True, False, False]
    assert found["seg"].tolist() == [True, False]
    assert found["sn"].tolist() == [False, True]  # leaves with its head
    everyone = voted.voted_mask(scores, mask, ("seg", "sn"))
    assert all(torch.equal(everyone[name], mask[name]) for name in mask)


def test_scores_of_other_data_are_refused():
    scores = {"seg": {"trunk": torch.tensor([4.0, 3.0, 2.0, 1.0])}}
    with pytest.raises(ValueError, match="made from other data"):
        voted.voted_mask(scores, {"trunk": torch.tensor([True, False, True, False])}, ("seg",))


@pytest.mark.parametrize("seed", range(4))
def test_every_network_of_the_rule_is_recognised(seed):
    chance = torch.Generator().manual_seed(seed)
    scores = {task: {"trunk": torch.rand(50, generator=chance)} for task in ("seg", "sn", "depth")}
    scores["seg"]["head"] = torch.rand(30, generator=chance)
    pools = voted_pools(scores, keep=20)
    mask = choose(scores, pools, "unanimous")
    alone = [voted.voted_mask(scores, mask, (task,))["trunk"] for task in scores]
    assert torch.equal(torch.stack(alone).any(dim=0), mask["trunk"])
    assert all(int(part.sum()) <= int(mask["trunk"].sum()) for part in alone)


def voted_pools(scores, keep):
    from prune_utils.budgets import Pool

    return (Pool(("trunk", "head"), keep),)


def test_every_part_of_a_plan_is_restored_or_refused():
    by_the_row, of_the_network = {"method", "revive", "starts", "grow_voters"}, {"uses", "linked"}
    known = {*voted.CERTIFIED, *voted.ONE_VOTE} | by_the_row | of_the_network
    assert {part.name for part in fields(Plan)} <= known


def pruning(**settings):
    """What `check_vote` looks at: a plan of SNIP, where each task votes."""
    plan = make_plan(method("snip"), Settings(90.0, voters="tasks", **settings))
    return SimpleNamespace(plan=plan, method=method("snip"))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"factors": {"seg": 3.0}}, "factors {'seg': 3.0}"),
        ({"protect": ("heads.*",)}, "protect ['heads.*']"),
        ({"retrain": True}, "retrain True"),
        ({"granularity": "2:4"}, "granularity 2:4"),
        ({"trunk_share": 0.5}, "trunk_share 0.5"),
    ],
)
def test_a_network_that_was_made_otherwise_is_refused_by_what_was(asked, said):
    known = pruning()
    voted.check_vote(known, known.plan.asked)
    voted.check_vote(known, {})  # earlier versions did not tell all
    with pytest.raises(ValueError) as error:
        voted.check_vote(known, known.plan.asked | asked)
    assert str(error.value).endswith(f"this network was made otherwise: with {said}")


def test_who_voted_is_what_the_certificate_says(tmp_path):
    content = {"method": "snip", "name": "x", "config": as_tree(load("nyuv2"))}
    content["certificate"] = {"asked": {"method": "snip", "voters": "tasks"}}
    assert voted.reopen(content, tmp_path, None).config.prune.voters == "tasks"


def run(script, *words):
    before, sys.argv = sys.argv, [script, *map(str, words)]
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.argv = before


def test_the_script_drops_and_measures(tmp_path, capsys):
    pytest.importorskip("safetensors")
    from dataloaders.synthetic import main as draw_rooms
    from workflow.saved import read_saved

    rooms = tmp_path / "rooms"
    draw_rooms([str(rooms), "--layout", "nyuv2", "--images", "6", "--size", "48x64", "--workers", "1"])
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(
        "data: {crop: 33, batch_size: 2, num_workers: 0}\nmodel: {backbone: resnet18, width: 0.05}\n"
        "prune: {num_batches: 2}\n"
    )
    run(
        "create_pruned_net.py", "--dest", tmp_path, "--config", overlay, "--data-root", rooms, "--ratio", "90"
    )
    capsys.readouterr()
    where = ["--dest", tmp_path, "--ratio", "90", "--data-root", rooms]
    # what a later command was told decides nothing
    content = torch.load(tmp_path / "nyuv2_disparse_static_90.pth", weights_only=True)
    content["config"]["prune"] |= {"num_batches": 1, "score_init": "own", "criterion": "gradient"}
    content["config"]["data"] |= {"crop": 17, "hflip": 0.0, "batch_size": 1, "num_workers": 50}
    content["config"]["run"]["seed"] = 8
    torch.save(content, tmp_path / "nyuv2_disparse_static_90.pth")
    run("export_net.py", *where, "--tasks", "sn", "--only-voted")
    said = capsys.readouterr().out
    assert "wanted by absent tasks only and are dropped" in said
    assert "on test" in said and "sn mean" in said
    whole = read_saved(tmp_path / "nyuv2_disparse_static_90.pth")
    part = read_saved(tmp_path / "nyuv2_disparse_static_90.sn.only_voted.safetensors")
    assert list(part["network"]["channels"]) == ["sn"]
    kept = {name: int(mask.sum()) for name, mask in part["mask"].items()}
    assert all(kept[name] == int(whole["mask"][name].sum()) for name in kept if name.startswith("heads"))
    shared = [name for name in kept if name.startswith("backbone")]
    assert sum(kept[name] for name in shared) < sum(int(whole["mask"][name].sum()) for name in shared)
