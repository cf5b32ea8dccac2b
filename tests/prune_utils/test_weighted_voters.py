"""Tasks that vote as one, in the weights of their gradients: worked out by hand on two shared weights."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import prune_utils as pu
from prune_utils.registering import check_row
from prune_utils.scoring import task_gradients

from .test_prune import Settings, electorate


class Lines(nn.Module):
    """Two weights, of which each output is one: [1, 0] -> w1, [0, 1] -> w2; and a head."""

    def __init__(self, first, second):
        super().__init__()
        self.shared, self.head = nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.shared.weight.data = torch.tensor([[first, second]])
        self.head.weight.data = torch.tensor([[3.0]])

    def forward(self, x):
        both = self.shared(x)[:, 0]
        return {"up": both[0] + 0.0 * self.head(both[:1]).sum(), "down": both[1] - both[0], "both": both}


# gradients of the shared weights: (1, 0) and (-1, 1), in conflict
LOSSES = {"up": lambda out, _: out["up"], "down": lambda out, _: out["down"]}
OWNERS = {"shared.weight": frozenset({"up", "down"})}
BATCHES = [(0, (torch.eye(2), None))]


def voting(weights=None, owners=None):
    return pu.Electorate(LOSSES, weights or {"up": 1.0, "down": 1.0}, owners or OWNERS)


def test_gradients_are_those_of_all_batches_together():
    net = Lines(9.0, 1.0)
    found = task_gradients(net, voting().voters("tasks"), [*BATCHES, (1, BATCHES[0][1])])
    assert {task: of["shared.weight"].tolist() for task, of in found.items()} == {
        "up": [[2.0, 0.0]],
        "down": [[-2.0, 2.0]],
    }


def test_scores_by_hand():
    """PCGrad gives the tasks the weights 2 and 1.5: the gradient is (0.5, 1.5), and |w g| (4.5, 1.5).

    The plain sum has the gradient (0, 1) and would keep the other weight.
    """
    net = Lines(9.0, 1.0)
    voter = pu.weighted_voter("pcgrad", net, voting(), BATCHES)
    scores = pu.score(net, [voter], BATCHES, "snip")
    assert scores["joint"]["shared.weight"].tolist() == [[4.5, 1.5]]
    plain = pu.score(net, voting().voters("joint"), BATCHES, "snip")
    assert plain["joint"]["shared.weight"].tolist() == [[0.0, 1.0]]
    kept = {}
    for voters in ("pcgrad", "joint"):
        row = pu.Method("mine", setup="static", criterion="snip", voters=voters, summary="a test")
        check_row(row)
        plan = pu.make_plan(row, Settings(ratio=50, score_init="own"))
        kept[voters] = pu.make_mask(net, plan, voting(), BATCHES)["shared.weight"].tolist()
    assert kept == {"pcgrad": [[True, False]], "joint": [[False, True]]}


def test_fixed_weights_come_first():
    """Doubled, "up" has the gradient (2, 0): and "down" loses only half of it to agree."""
    voter = pu.weighted_voter("pcgrad", Lines(1.0, 1.0), voting({"up": 2.0, "down": 1.0}), BATCHES)
    scores = pu.score(Lines(1.0, 1.0), [voter], BATCHES, "gradient")["joint"]["shared.weight"]
    # up - (up.down / |down|^2) down = (2, 0) + (-1, 1) = (1, 1); down - (down.up / |up|^2) up = (0, 1)
    assert scores.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("name", sorted(pu.WEIGHTINGS))
def test_every_weighting_makes_an_exact_mask(name, tiny):
    net = tiny("a", "b", "c")
    plan = pu.make_plan(pu.method("snip"), Settings(ratio=80, voters=name))
    before = torch.get_rng_state()
    masks = [pu.make_mask(net.model, plan, electorate(net), list(enumerate(net.batches))) for _ in range(2)]
    total = sum(kept.numel() for kept in masks[0].values())
    assert sum(int(kept.sum()) for kept in masks[0].values()) == pu.keep_count(total, 80.0)
    assert all(torch.equal(masks[1][layer], kept) for layer, kept in masks[0].items())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_go_together_is_told(tiny):
    net = tiny("a", "b")
    for name, settings, words in (
        ("snip", {"voters": "upgrd"}, "voters 'upgrd' is not one of tasks, joint, upgrad"),
        ("magnitude", {"voters": "mgda"}, "not for method magnitude and criterion magnitude"),
        ("disparse_gmp", {"voters": "mgda"}, "not for method disparse_gmp"),
        ("snip", {"voters": "mgda", "factors": {"a": 2.0}}, "factors weigh tasks"),
    ):
        with pytest.raises(ValueError, match=words):
            pu.make_plan(pu.method(name), Settings(**settings))
    plan = pu.make_plan(pu.method("snip"), Settings(voters="mgda"))
    with pytest.raises(ValueError, match="'mgda' read the batches twice"):
        pu.make_mask(net.model, plan, electorate(net), iter(enumerate(net.batches)))
    alone = {name: frozenset({"a"}) for name in net.owners}
    with pytest.raises(ValueError, match="no weight is shared"):
        pu.make_mask(net.model, plan, replace(electorate(net), owners=alone), list(enumerate(net.batches)))


def test_tasks_may_vote_where_a_row_asks_them_as_one(tiny):
    net = tiny("a", "b")
    plans = [
        pu.make_plan(pu.method(name), Settings(voters=voters))
        for name, voters in (("snip", "tasks"), ("disparse_static", None))
    ]
    one, two = (pu.make_mask(net.model, p, electorate(net), list(enumerate(net.batches))) for p in plans)
    assert all(torch.equal(two[layer], kept) for layer, kept in one.items())


def test_sparsify_takes_voters():
    net = Lines(9.0, 1.0)
    batches = [batch for _, batch in BATCHES]
    held = pu.sparsify(net, LOSSES, batches, 50, "snip", voters="pcgrad", include="shared.weight")
    assert held.mask["shared.weight"].tolist() == [[True, False]]
    assert held.certificate["asked"]["voters"] == "pcgrad"
