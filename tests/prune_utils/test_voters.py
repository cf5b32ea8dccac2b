import pytest
import torch
from torch import nn

from prune_utils import Electorate, joint_voter, owners_from_graph, task_voters


@pytest.mark.parametrize("tasks", [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d", "e")])
def test_owners_from_graph(tiny, tasks):
    net = tiny(*tasks)
    assert owners_from_graph(net.model, net.losses, net.batches[0]) == net.owners


def test_owners_are_the_weights_that_autograd_gives_a_gradient(tiny):
    net = tiny("a", "b", "c")
    owners = owners_from_graph(net.model, net.losses, net.batches[0])
    for task, loss in net.losses.items():
        net.model.zero_grad(set_to_none=True)
        loss(net.model(net.batches[0][0]), net.batches[0][1]).backward()
        reached = {name for name, p in net.model.named_parameters() if p.grad is not None and name in owners}
        assert reached == {name for name, of in owners.items() if task in of}


def test_a_loss_on_nothing_is_named():
    with pytest.raises(ValueError, match="loss of task 'a' depends on no weight"):
        owners_from_graph(
            nn.Linear(1, 1), {"a": lambda out, target: target.sum()}, (torch.ones(1), torch.ones(1))
        )


def test_task_voters_own_what_the_owners_say(tiny):
    net = tiny("a", "b", "c")
    voters = {voter.name: voter for voter in task_voters(net.losses, net.owners)}
    assert list(voters) == ["a", "b", "c"]
    assert voters["b"].owns == {"stem.weight", "trunk.weight", "branch.weight", "heads.b.weight"}
    assert voters["c"].owns == {"stem.weight", "trunk.weight", "heads.c.weight"}
    assert voters["b"].loss is net.losses["b"]
    assert voters["b"].among(["stem.weight", "heads.c.weight"]).owns == {"stem.weight"}


def test_joint_voter_is_the_weighted_sum():
    losses = {"a": lambda p, t: p * t, "b": lambda p, t: p + t}
    owners = {"x": frozenset({"a", "b"}), "y": frozenset({"b"}), "z": frozenset()}
    voter = joint_voter(losses, {"a": 10.0, "b": 1.0}, owners)
    assert (voter.name, voter.owns) == ("joint", {"x", "y"})
    assert voter.loss(2.0, 3.0) == 65.0
    with pytest.raises(ValueError, match="loss weight of task 'b' is missing; there are a"):
        joint_voter(losses, {"a": 1.0}, owners)


def test_an_owner_without_a_loss_is_named():
    with pytest.raises(ValueError, match="owner 'c' of 'x' is not one of a, b"):
        task_voters({"a": None, "b": None}, {"x": frozenset({"a", "c"})})


def test_electorate_knows_both_kinds(tiny):
    net = tiny("a", "b")
    electorate = Electorate(net.losses, net.weights, net.owners)
    assert [voter.name for voter in electorate.voters("tasks")] == ["a", "b"]
    assert [voter.name for voter in electorate.voters("joint")] == ["joint"]
    with pytest.raises(ValueError, match="'jiont' is not one of joint, tasks"):
        electorate.voters("jiont")
