"""Mixed precision with masks: pruned weights stay 0, the scale of the losses is part of a run's state."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from prune_utils.criteria import CRITERIA
from prune_utils.masked import Masked
from prune_utils.masks import prunable
from prune_utils.scoring import score
from prune_utils.voters import Voter
from tests.training.examples import Small, make_batch, make_tasks
from training.learner import Learner, Objective
from training.loop import Plan, make_optimizer
from training.step import training_step

PLAN = Plan(steps=6, lr=0.01, weight_decay=0.1, step_every=9, step_factor=0.5)
OBJECTIVE = Objective(make_tasks(), {"seg": 1.0, "depth": 20.0})


def learner(precision: str, network: Small) -> Learner:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=2)
    plugin = MixedPrecision(precision, "cpu", scaler if precision == "16-mixed" else None)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[plugin])
    wrapped, optimizer = fabric.setup(network, make_optimizer(network, PLAN))
    mask = {name: torch.rand(weight.shape) > 0.5 for name, weight in prunable(network).items()}
    return Learner(fabric, wrapped, optimizer, OBJECTIVE, Masked(network, mask))


def steps(subject: Learner, numbers) -> None:
    subject.network.train()
    for number in numbers:
        torch.manual_seed(number)
        subject.optimizer.zero_grad()
        training_step(subject, make_batch(3, number))
        subject.sparsifier.mask_gradients()
        subject.optimizer.step()
        subject.sparsifier.after_step(number, None)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_pruned_weights_stay_zero_and_the_others_move(precision):
    torch.manual_seed(0)
    network = Small()
    subject = learner(precision, network)
    before = copy.deepcopy(network.state_dict())
    steps(subject, range(4))
    for name, kept in subject.sparsifier.mask.items():
        assert not network.state_dict()[name][~kept].any()
        assert (network.state_dict()[name] != before[name])[kept].any()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_resumed_with_its_scale_a_run_takes_the_same_steps(precision):
    torch.manual_seed(0)
    whole = learner(precision, Small())
    steps(whole, range(3))
    state = copy.deepcopy(
        [
            whole.network.state_dict(),
            whole.optimizer.state_dict(),
            whole.fabric.strategy.precision.state_dict(),
            whole.sparsifier.state_dict(),
        ]
    )
    assert bool(state[2]) == (precision == "16-mixed")
    steps(whole, range(3, 6))
    again = learner(precision, Small(seed=9))
    again.network.load_state_dict(state[0])
    again.optimizer.load_state_dict(state[1])
    again.fabric.strategy.precision.load_state_dict(state[2])
    again.sparsifier.load_state_dict(state[3])
    steps(again, range(3, 6))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_scores_are_taken_in_full_precision(criterion):
    """fabric.setup wraps the network for training; what is scored is the network itself."""
    plain, wrapped = Small(), Small()
    learner("bf16-mixed", wrapped)
    wrapped.load_state_dict(plain.state_dict())
    owns = frozenset(prunable(plain))
    voter = Voter("seg", OBJECTIVE.losses["seg"], owns)
    one, two = (score(net, [voter], [(0, make_batch(3, 1))], criterion)["seg"] for net in (plain, wrapped))
    for name, value in one.items():
        assert value.dtype in (torch.float32, torch.float64) and torch.equal(two[name], value), name
