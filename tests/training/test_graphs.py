"""Passes that are recorded and replayed on a GPU: the steps of a plain run, and nothing else touched."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from tests.training.examples import Small, make_batch
from tests.training.test_loop import OBJECTIVE, PLAN
from training.graphs import record
from training.learner import Learner
from training.loop import make_optimizer, train
from training.sparsifier import Dense

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def trained(replay: bool):
    """A network after six steps and the losses of each, its passes replayed or not."""
    fabric = Fabric(accelerator="cuda", devices=1)
    network = Small().cuda()
    bare, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    recorded = None
    if replay:
        before = {name: value.clone() for name, value in network.state_dict().items()}
        recorded = record(network, make_batch(4, 0)[0].cuda())
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())
    learner = Learner(fabric, bare, optimizer, OBJECTIVE, Dense(), recorded=recorded)
    steps = list(train(learner, PLAN, [make_batch(4, step) for step in range(PLAN.steps)]))
    return network, [step.losses for step in steps]


def test_replayed_steps_are_those_of_a_plain_run_dropout_included():
    plain, losses = trained(False)
    replayed, found = trained(True)
    for one, other in zip(losses, found, strict=True):
        assert other == pytest.approx(one, rel=1e-3)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(replayed.state_dict()[name], value, rtol=1e-2, atol=1e-3)
