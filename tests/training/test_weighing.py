"""Tasks weighed in training: gradients worked out by autograd, parts, masks, records, and states."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from prune_utils.gramian import gramian
from prune_utils.masked import Masked
from prune_utils.weightings import WEIGHTINGS, Solver
from tasks.base import Target
from tests.training.examples import Small, make_batch, make_tasks
from training.learner import Learner, Objective
from training.loop import Plan, make_optimizer, train
from training.rules import SCALARIZERS, FromGradients
from training.sparsifier import Dense
from training.step import training_step
from training.weighing import Seen, Weighing, combined

PLAN = Plan(steps=6, lr=0.01, weight_decay=0.0, step_every=9, step_factor=0.5)
OBJECTIVE = Objective(make_tasks(), {"seg": 1.0, "depth": 20.0})
TASKS = ("seg", "depth")
SHARED = frozenset({"trunk.0.weight", "trunk.0.bias"})


def rule(name, epoch=2):
    if name in WEIGHTINGS:
        return FromGradients(Solver(name, 2))
    row = SCALARIZERS[name]
    return row.make(2, row.strength or 0.0, epoch, (0.7, 9.0))


def still(seed=0):
    network = Small(seed)
    network.trunk[2].p = 0.0
    return network


def learner(network, weighing=None, sparsifier=None, plugins=()):
    fabric = Fabric(accelerator="cpu", devices=1, plugins=list(plugins))
    wrapped, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    weighing = weighing or Weighing(TASKS, SHARED)
    return Learner(fabric, wrapped, optimizer, OBJECTIVE, sparsifier or Dense(), weighing)


def by_hand(network, batch):
    """Every task's gradients in its fixed weight, by parameter name."""
    preds = network(batch[0])
    found = []
    for task, loss in OBJECTIVE.losses.items():
        value = OBJECTIVE.weights[task] * loss(preds, batch[1])
        named = dict(network.named_parameters())
        gradients = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
        found.append({name: g for name, g in zip(named, gradients, strict=True) if g is not None})
    return found


def gradients(network):
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def close(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)


def test_weighted_sums_by_hand():
    one = {"trunk": torch.tensor([1.0, 2.0]), "mine": torch.tensor([5.0])}
    two = {"trunk": torch.tensor([-1.0, 4.0]), "yours": torch.tensor([7.0])}
    both = combined([one, two], [2.0, 0.5], frozenset({"trunk"}))
    assert {name: value.tolist() for name, value in both.items()} == {
        "trunk": [1.5, 6.0],
        "mine": [5.0],
        "yours": [7.0],
    }
    everything = combined([one, two], [2.0, 0.5], None)
    assert everything["mine"].tolist() == [10.0] and everything["yours"].tolist() == [3.5]


def test_conflicts_are_counted_by_pair():
    weighing = Weighing(("a", "b", "c"), frozenset({"w"}))
    weighing.note(torch.tensor([[4.0, -1.0, 0.0], [-1.0, 1.0, 2.0], [0.0, 2.0, 9.0]]))
    weighing.note(torch.eye(3))
    weighing.note(torch.full((3, 3), math.nan))  # says nothing
    assert weighing.summary == {
        "steps": 2,
        "conflicting": 1,
        "pairs": {"a-b": 1, "a-c": 0, "b-c": 0},
    }
    assert weighing.figures["conflicting_share"] == 0.5 and weighing.figures["cosine/b-c"] == 0.0
    again = Weighing(("a", "b", "c"), frozenset({"w"}))
    again.load_state_dict(weighing.state_dict())
    assert again.summary == weighing.summary
    assert Weighing(("a", "b")).summary is None


@pytest.mark.parametrize("name", ["upgrad", "mgda", "nash_mtl"])
def test_shared_gradients_in_the_rules_weights_and_private_ones_as_they_are(name):
    batch, network, same = make_batch(4, 10), still(), still()
    rows = by_hand(same, batch)
    weights = Solver(name, 2)(gramian(rows, SHARED)).tolist()
    assert weights != [1.0, 1.0]
    weighing = Weighing(TASKS, SHARED, rule(name))
    training_step(learner(network, weighing), batch)
    close(gradients(network), combined(rows, weights, SHARED))
    assert [weighing.figures[f"weight/{task}"] for task in TASKS] == pytest.approx(weights, rel=1e-4)


@pytest.mark.parametrize("name", ["geometric", "stch", "dwa", "uncertainty", "imtl_l", "famo", "min_max"])
def test_a_scalarizer_is_minimised_as_a_whole(name):
    batch, network, same = make_batch(4, 0), still(), still()
    preds = same(batch[0])
    losses = [OBJECTIVE.weights[task] * loss(preds, batch[1]) for task, loss in OBJECTIVE.losses.items()]
    copy.deepcopy(rule(name).scalarizer)(torch.stack(losses).double()).backward()
    training_step(learner(network, Weighing(TASKS, SHARED, rule(name))), batch)
    close(gradients(network), gradients(same))


def test_min_max_looks_at_the_task_that_is_worst_off():
    """The losses are 1.5 and 1.2 times their references: weights softmax((1.5, 1.2) / 0.1) / reference."""
    seen = Seen(1, torch.tensor([0.7 * 1.5, 9.0 * 1.2]).double(), None, 0.1)
    worst = 1 / (1 + math.exp(-3))
    assert rule("min_max").weigh(seen).tolist() == pytest.approx([worst / 0.7, (1 - worst) / 9.0])


@pytest.mark.parametrize("name", ["upgrad", "uncertainty"])
@pytest.mark.parametrize("count", [2, 4])
def test_parts_add_up(name, count):
    batch, one, many = make_batch(4, 0), still(), still()
    whole, shares = training_step(learner(one, Weighing(TASKS, SHARED, rule(name))), batch)
    summed, together = training_step(learner(many, Weighing(TASKS, SHARED, rule(name))), batch, count)
    torch.testing.assert_close(summed, whole, rtol=1e-5, atol=0)
    torch.testing.assert_close(together, shares, rtol=1e-6, atol=0)
    close(gradients(many), gradients(one))


def test_only_kept_weights_are_seen():
    batch, network, same = make_batch(4, 0), still(), still()
    mask = {"trunk.0.weight": torch.arange(108).reshape(4, 3, 3, 3) % 3 == 0}
    sparsifier, _ = Masked(network, mask), Masked(same, mask)
    rows = by_hand(same, batch)
    kept, everything = gramian(rows, SHARED, mask), gramian(rows, SHARED)
    assert not torch.allclose(kept, everything)
    weighing = Weighing(TASKS, SHARED, rule("mgda"))
    training_step(learner(network, weighing, sparsifier), batch)
    found = [weighing.figures[f"weight/{task}"] for task in TASKS]
    assert found == pytest.approx(Solver("mgda", 2)(kept).tolist(), rel=1e-4)


def test_half_precision_and_its_scale_change_nothing_but_digits():
    batch, exact, half = make_batch(4, 0), still(), still()
    training_step(learner(exact, Weighing(TASKS, SHARED, rule("fairgrad"))), batch)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**6))
    training_step(learner(half, Weighing(TASKS, SHARED, rule("fairgrad")), plugins=[plugin]), batch)
    for name, value in gradients(exact).items():
        torch.testing.assert_close(gradients(half)[name] / 2**6, value, rtol=0.02, atol=0.01)


def without(batch, task):
    image, targets = batch
    return image, targets | {task: Target(targets[task].value, targets[task].valid & False)}


@pytest.mark.parametrize("name", ["nash_mtl", "uncertainty", "famo"])
def test_a_batch_without_a_task_is_weighed_as_fixed(name):
    batch, network, same = without(make_batch(4, 0), "seg"), still(), still()
    weighing = Weighing(TASKS, SHARED, rule(name))
    before = str(weighing.state_dict()["rule"])
    subject = learner(network, weighing)
    list(train(subject, PLAN, [batch]))
    fixed = learner(same)
    list(train(fixed, PLAN, [batch]))
    for one, two in zip(network.parameters(), same.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert str(weighing.state_dict()["rule"]) == before


class Normed(Small):
    """With a norm, whose statistics a look must not touch."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(self.trunk, nn.BatchNorm2d(4))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_looking_changes_nothing(accumulate):
    plan, batches = replace(PLAN, accumulate=accumulate), [make_batch(4, seed) for seed in range(4)]
    shared = frozenset({"trunk.0.0.weight", "trunk.0.0.bias"})
    plain, looked_at = Normed(), Normed()
    list(train(learner(plain, Weighing(TASKS, shared)), plan, batches))
    weighing = Weighing(TASKS, shared, every=2)
    steps = list(train(learner(looked_at, weighing), plan, batches))
    for name, value in plain.state_dict().items():
        assert torch.equal(looked_at.state_dict()[name], value), name
    assert [bool(step.tasks) for step in steps] == [False, True, False, True]
    assert set(steps[1].tasks) == {"cosine/seg-depth", "conflicting_share"}
    assert weighing.summary["steps"] == 2


@pytest.mark.parametrize("name", [*WEIGHTINGS, *SCALARIZERS])
def test_a_run_from_the_middle_takes_the_same_steps(name):
    batches = [make_batch(3, seed) for seed in range(6)]
    whole, halves = Small(), Small()
    undisturbed = Weighing(TASKS, SHARED, rule(name))
    expected = [step.tasks for step in train(learner(whole, undisturbed), PLAN, batches)]
    first = Weighing(TASKS, SHARED, rule(name))
    subject = learner(halves, first)
    found = [step.tasks for step in train(subject, PLAN, batches[:3])]
    saved = copy.deepcopy((first.state_dict(), halves.state_dict(), subject.optimizer.state_dict()))
    rest, second = Small(1), Weighing(TASKS, SHARED, rule(name))
    resumed = learner(rest, second)
    second.load_state_dict(saved[0])
    rest.load_state_dict(saved[1])
    resumed.optimizer.load_state_dict(saved[2])
    torch.manual_seed(99)
    found += [step.tasks for step in train(resumed, PLAN, batches[3:], start=3)]
    assert found == expected and all(f"weight/{task}" in expected[0] for task in TASKS)
    assert all(torch.equal(whole.state_dict()[n], value) for n, value in rest.state_dict().items())
    shapes = {name: type(value) for name, value in rule(name).state_dict().items()}
    assert {name: type(value) for name, value in second.state_dict()["rule"].items()} == shapes


def test_the_pace_of_the_losses_weighs():
    """Epochs of one step: losses (1, 4), then (0.5, 4): rates 1/2 and 1, 2 softmax of half of them."""
    dwa = rule("dwa", epoch=1)
    for losses in ([1.0, 4.0], [0.5, 4.0]):
        assert dwa.weigh(Seen(1, torch.tensor(losses).double(), None, 0.1)).tolist() == [1.0, 1.0]
    weights = dwa.weigh(Seen(3, torch.tensor([0.5, 4.0]).double(), None, 0.1))
    expected = [2 / (1 + math.exp(0.25)), 2 / (1 + math.exp(-0.25))]
    assert weights.tolist() == pytest.approx(expected)


def test_learned_weights_follow_adam():
    """d/ds of exp(-s) L / 2 + s / 2 at s = 0 is (1 - L) / 2: Adam's first step is its rate."""
    learned = rule("uncertainty")
    weights = learned.weigh(Seen(1, torch.tensor([3.0, 0.5]).double(), None, 0.25))
    assert weights.tolist() == [0.5, 0.5]
    assert learned.parameter.tolist() == pytest.approx([0.25, -0.25])


def test_famo_hears_what_the_step_did():
    """The first task's loss halved, the second stayed: its logit falls by 0.025, the other's rises."""
    famo = rule("famo")
    famo.weigh(Seen(1, torch.tensor([2.0, 3.0]).double(), None, 0.1))
    famo.look_again(torch.tensor([1.0, 3.0]).double())
    assert famo.scalarizer._w.tolist() == pytest.approx([-0.025, 0.025], rel=1e-3)
    subject = learner(still(), Weighing(TASKS, SHARED, rule("famo")))
    list(train(subject, PLAN, [make_batch(3, 0)]))
    assert subject.weighing.state_dict()["rule"]["steps"] == 1
