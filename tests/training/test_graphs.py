"""Passes that are recorded and replayed on a GPU: the steps of a plain run, and nothing else touched."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from tests.training.examples import Small, make_batch
from tests.training.test_loop import OBJECTIVE, PLAN
from training.graphs import Recorded
from training.learner import Learner
from training.loop import make_optimizer, train
from training.sharing import parts
from training.sparsifier import Dense

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
PARTS = pytest.mark.parametrize("accumulate", [1, 2])


def trained(recorded: bool, accumulate: int):
    """A network after six steps and the losses of each, its passes replayed or not."""
    fabric = Fabric(accelerator="cuda", devices=1)
    network = Small().cuda()
    bare, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    graphs = None
    if recorded:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        image, _ = make_batch(4, 0)
        graphs = Recorded(network, [one for one, _ in parts((image.cuda(), {}), accumulate)])
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    learner = Learner(fabric, bare, optimizer, OBJECTIVE, Dense(), recorded=graphs)
    plan = PLAN.__class__(**vars(PLAN) | {"accumulate": accumulate})
    steps = list(train(learner, plan, [make_batch(4, step) for step in range(plan.steps)]))
    return network, [step.losses for step in steps]


@PARTS
def test_replayed_steps_are_those_of_a_plain_run_dropout_included(accumulate):
    plain, losses = trained(False, accumulate)
    replayed, found = trained(True, accumulate)
    for one, other in zip(losses, found, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(replayed.state_dict()[name], value, rtol=1e-2, atol=1e-3)


def test_two_replayed_runs_are_alike():
    one, other = (trained(True, 1)[1] for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert second == pytest.approx(first, rel=1e-4)
