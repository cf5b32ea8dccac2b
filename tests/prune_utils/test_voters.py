import pytest
import torch
from torch import nn

from prune_utils import Electorate, joint_voter, owners_from_graph, prunable, score, sparsify, task_voters


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
    with pytest.raises(ValueError, match="'x': owner 'c' is not one of a, b"):
        task_voters({"a": None, "b": None}, {"x": frozenset({"a", "c"})})


def test_electorate_knows_both_kinds(tiny):
    net = tiny("a", "b")
    electorate = Electorate(net.losses, net.weights, net.owners)
    assert [voter.name for voter in electorate.voters("tasks")] == ["a", "b"]
    assert [voter.name for voter in electorate.voters("joint")] == ["joint"]
    with pytest.raises(ValueError, match="'jiont' is not one of joint, tasks"):
        electorate.voters("jiont")


class Dropped(nn.Module):
    """A layer that training skips more often than not, and one that evaluation alone uses."""

    def __init__(self):
        super().__init__()
        self.first, self.rare, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.quiet = nn.Linear(3, 3)

    def forward(self, x):
        x = self.first(x)
        if not self.training or torch.rand(()) < 0.01:
            x = x + self.rare(x)
        if self.training and torch.rand(()) < 0.4:
            x = x + self.quiet(x)
        return self.last(x)


@pytest.mark.parametrize("evaluates", [True, False])
def test_a_layer_that_is_dropped_at_random_keeps_its_owner(evaluates):
    model = Dropped()

    def loss(out, target):
        if not evaluates and not model.training:
            raise KeyError("losses exist in training alone")
        return out.sum()

    before = torch.get_rng_state()
    owners = owners_from_graph(model, {"a": loss}, (torch.ones(2, 3), None))
    assert "quiet.weight" in owners and ("rare.weight" in owners) == evaluates
    assert model.training and torch.equal(before, torch.get_rng_state())


def test_owners_of_several_batches_are_united(tiny):
    net = tiny("a", "b")
    image = net.batches[0][0]
    losses = {"a": lambda out, head: out[head].sum(), "b": net.losses["b"]}
    losses["b"] = lambda out, head: out["b"].sum()
    one = owners_from_graph(net.model, losses, (image, "a"))
    both = owners_from_graph(net.model, losses, (image, "a"), (image, "b"))
    assert one["heads.b.weight"] == {"b"} and both["heads.b.weight"] == {"a", "b"}
    assert both["heads.a.weight"] == {"a"}


def test_every_task_may_have_batches_of_its_own(tiny):
    net = tiny("a", "b")
    one, two = net.batches
    owners = owners_from_graph(net.model, net.losses, {"a": [one, two], "b": [two]})
    assert owners == net.owners
    voters = task_voters(net.losses, net.owners)
    net.model.drop.p = 0.0
    split = score(net.model, voters, {"a": [one, two], "b": [two]}, "snip")
    whole = score(net.model, voters, enumerate(net.batches), "snip")
    only = score(net.model, voters, [(0, two)], "snip")
    assert all(torch.equal(split["a"][name], whole["a"][name]) for name in whole["a"])
    assert all(torch.equal(split["b"][name], only["b"][name]) for name in only["b"])
    with pytest.raises(ValueError, match="task 'b' has no batches; there are a"):
        score(net.model, voters, {"a": [one]}, "snip")


def test_the_joint_voter_adds_the_tasks_batches_before_it_takes_sizes(tiny):
    net = tiny("a", "b")
    net.model.double().drop.p = 0.0
    one, two = ((image.double(), {t: v.double() for t, v in to.items()}) for image, to in net.batches)
    voter = joint_voter(net.losses, {"a": 1.0, "b": -1.0}, net.owners)
    same = score(net.model, [voter], {"a": [one], "b": [one]}, "gradient")["joint"]
    whole = score(net.model, [voter], [(0, one)], "gradient")["joint"]
    for name, value in whole.items():
        torch.testing.assert_close(same[name], value)
    other = score(net.model, [voter], {"a": [one], "b": [two]}, "gradient")["joint"]
    assert not torch.allclose(other["stem.weight"], same["stem.weight"])


def test_no_batch_and_a_task_that_is_never_there(tiny):
    net = tiny("a", "b")
    with pytest.raises(ValueError, match="finding owners needs at least one batch"):
        owners_from_graph(net.model, net.losses)
    with pytest.raises(ValueError, match="task 'b' has no loss in any of the 2 batches"):
        owners_from_graph(net.model, net.losses | {"b": lambda out, to: None}, *net.batches)


def outside(tiny, loss):
    """tiny("a", "b") with a task "c" whose loss is made by `loss` of a layer that is not in the network."""
    net, other = tiny("a", "b"), torch.nn.Linear(3, 1)
    net.losses["c"] = lambda out, _: loss(net, other(out["a"].detach())).mean()
    return net


def test_a_task_of_nothing_in_the_network_is_refused(tiny):
    net = outside(tiny, lambda net, value: value)
    said = (
        "^loss of task 'c' depends on no parameter of this network: on features that are detached, or on a "
        "module outside of it$"
    )
    for call in (lambda: owners_from_graph(net.model, net.losses, *net.batches), lambda: pruned(net)):
        with pytest.raises(ValueError, match=said):
            call()


def pruned(net, **asked):
    return sparsify(net.model, net.losses, net.batches, 70, **asked)


def test_a_task_whose_weights_are_left_alone_is_said(tiny):
    net = outside(tiny, lambda net, value: value + net.model.heads["b"].bias.sum())
    made = pruned(net)
    assert made.owners.idle == ("c",)
    said = "no considered weight is owned by c, which has no say: all of it is left alone"
    assert said in made.certificate["warnings"]
    assert not any("no say" in warning for warning in pruned(tiny("a", "b")).certificate["warnings"])


class Bare(torch.nn.Module):
    """A matrix that multiplies the input, and one that is added to it: only a batch tells them apart."""

    def __init__(self):
        super().__init__()
        self.mixing = torch.nn.Parameter(torch.randn(4, 3))
        self.shift = torch.nn.Parameter(torch.randn(2, 4))

    def forward(self, x):
        return (x + self.shift) @ self.mixing


def test_owners_are_of_the_weights_that_sparsify_considers():
    model, batches, losses = Bare(), [(torch.randn(2, 4), None)], {"a": lambda out, _: out.square().mean()}
    owners = owners_from_graph(model, losses, *batches)
    made = sparsify(model, losses, batches, 50)
    assert list(owners) == list(made.mask) == list(prunable(model, batches=batches)) == ["mixing"]
    assert list(prunable(model)) == ["mixing", "shift"]
