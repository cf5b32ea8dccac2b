"""Passes that are recorded and replayed: which steps replay; on a GPU, that they are those of a plain run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from tests.training.examples import Small, make_batch
from tests.training.test_loop import OBJECTIVE, PLAN
from tests.training.test_weighing import SHARED, TASKS, rule
from training.graphs import record
from training.learner import Learner
from training.loop import make_optimizer, train
from training.sparsifier import Dense
from training.step import losses_of
from training.weighing import Weighing

GPU = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


class Counting(nn.Module):
    """Stands for a recorded network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, image):
        self.calls += 1
        return self.network(image)


def counted(weighing):
    """A learner on the CPU whose recorded network counts its calls, which nothing else makes."""
    fabric = Fabric(accelerator="cpu", devices=1)
    network = Small()
    wrapped, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    return Learner(fabric, wrapped, optimizer, OBJECTIVE, Dense(), weighing, recorded=Counting(network))


@pytest.mark.parametrize(
    ("weighing", "replayed"),
    [
        (Weighing(TASKS, SHARED), PLAN.steps),
        (Weighing(TASKS, SHARED, every=2), PLAN.steps),  # looking at the gradients goes back task by task
        (Weighing(TASKS, SHARED, rule("famo")), PLAN.steps),  # which looks at the losses again, forward alone
        (Weighing(TASKS, SHARED, rule("mgda")), 0),
    ],
    ids=["fixed", "measured", "by losses", "by gradients"],
)
def test_passes_that_go_back_together_are_replayed_and_no_others(weighing, replayed):
    learner = counted(weighing)
    list(train(learner, PLAN, [make_batch(2, step) for step in range(PLAN.steps)]))
    assert learner.recorded.calls == replayed
    losses_of(learner, make_batch(2, 0))
    assert learner.recorded.calls == replayed


class Normed(Small):
    """The small network with a norm, whose statistics a recording must leave alone."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image):
        features = self.norm(self.trunk(image / 100))
        return {name: head(features) for name, head in self.heads.items()}


def trained(replay: bool):
    """A network after six steps, and the losses of each; its passes replayed or not."""
    torch.manual_seed(1)
    fabric = Fabric(accelerator="cuda", devices=1)
    network = Normed().cuda()
    network.train()(make_batch(4, 9)[0].cuda())  # statistics that are none of a new norm
    bare, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    recorded, replays = None, []
    if replay:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        streams = torch.get_rng_state(), torch.cuda.get_rng_state()
        recorded = record(network, make_batch(4, 0)[0].cuda())
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert all(map(torch.equal, streams, (torch.get_rng_state(), torch.cuda.get_rng_state())))
        assert all(parameter.grad is None for parameter in network.parameters())
        recorded.register_forward_hook(lambda *_: replays.append(None))
    learner = Learner(fabric, bare, optimizer, OBJECTIVE, Dense(), recorded=recorded)
    steps = list(train(learner, PLAN, [make_batch(4, step) for step in range(PLAN.steps)]))
    assert len(replays) == (PLAN.steps if replay else 0)
    return network, [step.losses for step in steps]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_replayed_steps_are_those_of_a_plain_run_dropout_included(device):
    plain, losses = trained(False)
    replayed, found = trained(True)
    for one, other in zip(losses, found, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(replayed.state_dict()[name], value, rtol=1e-2, atol=1e-3)


def test_a_network_that_was_put_into_evaluation_trains_on():
    learner = counted(Weighing(TASKS, SHARED))
    learner.network.eval()
    modes = []
    learner.recorded.register_forward_hook(
        lambda *_: modes.append(all(part.training for part in learner.bare.modules()))
    )
    for step in train(learner, replace(PLAN, steps=3), [make_batch(2, step) for step in range(3)]):
        if step.number == 2:
            learner.bare.eval()  # as an evaluation leaves it
    assert modes == [True, True, True]
