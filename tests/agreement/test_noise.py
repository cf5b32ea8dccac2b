"""python3 -m agreement.noise from data to files, and what it counts."""

import csv
import json
import sys
from dataclasses import fields
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from agreement import noise
from agreement.noise_files import enough, tables
from agreement.scatter import Value, _ious, _ranks, _scores, largest, spearman, without_dropout
from configs.schema import Prune
from prune_utils import score, task_voters
from tests.tiny import RUN
from workflow import terminal


def run(monkeypatch, root, dest, *more):
    settings = [word for assignment in RUN for word in ("--set", assignment)]
    words = ["noise", "--data-root", str(root), "--dest", str(dest), *settings, *more]
    monkeypatch.setattr(sys, "argv", words)
    terminal.run(noise.main)


def test_the_command_writes_everything(monkeypatch, rooms, tmp_path, capsys):
    run(
        monkeypatch, rooms, tmp_path, "--batches", "2,1", "--ratio", "80", "--seeds", "1,", "--budgets", "erk"
    )
    result = json.loads((tmp_path / "nyuv2_noise.json").read_text())
    assert (result["sizes"], result["seeds"], result["ratio"]) == ([1, 2], [1], 80)
    with (tmp_path / "nyuv2_noise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result["values"])
    assert (tmp_path / "nyuv2_noise.png").read_bytes().startswith(b"\x89PNG")
    values = [Value(**row) for row in result["values"]]
    masks = [value for value in values if value.measure == "iou"]
    # sizes, dropout, sums, methods, parts
    assert len(masks) == 2 * 2 * 2 * 2 * 3
    assert all(0 <= value.chance <= 1 and 0 <= value.value <= 1 for value in masks)
    once = {v[:4] + v[5:]: v.value for v in values if v.batches == 1 and v.sum == "unsigned"}
    # of one batch, the sum of sizes is the size of the sum
    assert once == {
        (*v[:3], "unsigned", *v[5:]): v.value for v in values if v.batches == 1 and v.sum == "signed"
    }
    said = capsys.readouterr().out
    assert "| disparse_static | erk | on | unsigned |" in said and "| joint | off | signed |" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batches", "0,1"), "--batches needs whole numbers of at least 1, not '0,1'"),
        (("--batches", "x"), "--batches needs different whole numbers"),
        (("--methods", "force"), "--methods 'force'"),
        (("--methods", ","), "--methods needs at least one name"),
        (("--budgets", "none"), "budget 'none'"),
        (("--criterion", "fisher"), "leave out --criterion fisher"),
        (("--budget", "erk"), "--budget erk would change nothing here: --budgets erk names those to compare"),
        (
            ("--num-batches", "5"),
            "--num-batches 5 would change nothing here: --batches 5 says how many are in a set",
        ),
        (("--set", "prune.num_batches=5"), "--num-batches 5 would change nothing here: --batches 5"),
        (("--rounds", "3"), "--rounds 3 would change nothing here: leave it out"),
        (("--shuffle",), "--shuffle would change nothing here: leave it out"),
        (("--set", "prune.pt_criterion=lamp"), "prune.pt_criterion lamp would change nothing here: leave it"),
    ],
)
def test_mistakes_are_one_sentence(monkeypatch, rooms, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, rooms, tmp_path, *more)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.glob("*.json"))


def test_prefixes_are_the_scores_of_their_batches(tiny):
    net = tiny("a", "b")
    batches = [(n, (torch.randn_like(net.batches[0][0]), net.batches[0][1])) for n in range(6)]
    config = SimpleNamespace(run=SimpleNamespace(seed=3))
    experiment = SimpleNamespace(config=config, numbered_batches=lambda count: iter(batches[:count]))
    voters = task_voters(net.losses, net.owners)
    found = dict(_scores(experiment, net.model, voters, (1, 3)))
    assert list(found) == list(product((1, 3), (True, False), ("unsigned", "signed")))
    sets = {1: ([0], [1]), 3: ([0, 2, 3], [1, 4, 5])}  # no batch is in both
    for (size, dropout, kind), pair in found.items():
        model = net.model if dropout else without_dropout(net.model)
        criterion = {"unsigned": "snip", "signed": "snip_signed"}[kind]
        for numbers, scores in zip(sets[size], pair, strict=True):
            expected = score(model, voters, [batches[n] for n in numbers], criterion, seed=3)
            for voter, of in expected.items():
                for name, values in of.items():
                    torch.testing.assert_close(scores[voter][name], values)


def test_what_is_counted():
    one = {"w": torch.tensor([True, True, False, False]), "h": torch.tensor([True, False])}
    two = {"w": torch.tensor([True, False, True, False]), "h": torch.tensor([True, False])}
    owners = {"w": frozenset("ab"), "h": frozenset("a")}
    found = list(_ious("iou", (0, True, "signed", 1), "snip", "erk", [(one, two)], owners))
    assert [(v.part, v.value, v.chance) for v in found] == [
        ("all", 2 / 4, (1 + 0.5) / (3 + 1.5)),
        ("trunk", 1 / 3, 1 / 3),
        ("heads", 1.0, 0.5 / 1.5),
    ]
    scores = {"a": {"w": torch.tensor([1.0, 2.0, 3.0, 4.0]), "h": torch.ones(2)}}
    other = {"a": {"w": torch.tensor([1.0, 3.0, 2.0, 4.0]), "h": torch.ones(2)}}
    ranks = list(_ranks((0, True, "signed", 1), (scores, other), owners))
    about = pytest.approx(0.8)
    assert [(v.part, v.value) for v in ranks] == [("w", about), ("h", None), ("trunk", about)]


def test_rank_correlation_of_orders():
    one = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert spearman(one, one.exp()) == pytest.approx(1.0)
    assert spearman(one, -one) == pytest.approx(-1.0)
    assert spearman(one, torch.ones(2, 2)) is None


def test_largest_keeps_as_many_in_every_layer():
    network = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, -3.0, 2.0]]))
    mask = {"weight": torch.tensor([[True, False, True]])}
    assert largest(network, mask)["weight"].tolist() == [[False, True, True]]


def test_enough_is_half_of_what_chance_leaves():
    values = {1: (0.5, 0.2), 2: (0.6, 0.2), 5: (0.61, 0.2)}
    assert enough((1, 2, 5), values) == "5"
    assert enough((1, 2), values) == "more than 2"


def test_tables_are_means_over_seeds():
    rows = [
        Value("iou", seed, True, "unsigned", 1, "snip", "erk", part, value, 0.1)._asdict()
        for seed, value in ((0, 0.25), (1, 0.5))
        for part in ("trunk", "heads", "all")
    ]
    result = {"dataset": "nyuv2", "ratio": 95, "batch_size": 8, "seeds": [0, 1], "sizes": [1], "values": rows}
    assert "| snip | erk | on | unsigned | 0.38 / 0.38 / 0.38 | more than 1 |" in tables(result)


USED = {
    "ratio",
    "ratio_of",
    "trunk_share",
    "arbiter",
    "scope",
    "protect",
    "batch_size",
    "score_init",
    "factors",
}
ONE = {"granularity", "keep_ratio", "criterion", "voters"}  # which have one value here


def test_every_setting_of_pruning_is_used_or_refused():
    assert {field.name for field in fields(Prune)} == USED | ONE | set(noise.UNUSED)
