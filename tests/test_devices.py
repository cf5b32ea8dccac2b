"""Nothing is made in main memory that meets what is on the device: the meta device refuses as a GPU would."""

from __future__ import annotations

import pytest
import torch

from models.multitask import MultiTaskNet
from prune_utils.criteria import CRITERIA
from prune_utils.masked import Masked
from prune_utils.masks import prunable
from prune_utils.regrow import Growth, Regrowth, Schedule
from prune_utils.scoring import score
from prune_utils.voters import Electorate
from tasks.base import Target
from tasks.depth import depth
from tasks.normals import normals
from tasks.regression import regression
from tasks.segmentation import segmentation
from training.evaluate import Losses, evaluating

SIZE = (33, 40)


@pytest.fixture
def bench():
    """A small network with five tasks and a batch, all on the meta device."""
    every = [
        segmentation(17, class_weights=[1.0] * 17),
        normals(encoding="decoded"),
        depth(),
        regression("keypoint"),
        regression("edge"),
    ]
    tasks = {task.name: task for task in every}
    channels = {name: task.channels for name, task in tasks.items()}
    with torch.device("meta"):
        network = MultiTaskNet(channels, "resnet18", 0.05)
        image = torch.empty(2, 3, *SIZE)
        targets = {name: target(task) for name, task in tasks.items()}
    return tasks, network, (image, targets)


def target(task) -> Target:
    values = torch.zeros(2, 1, *SIZE, dtype=torch.int64) if task.name == "seg" else None
    channels = 3 if task.name == "sn" else 1
    return Target(torch.empty(2, channels, *SIZE) if values is None else values, torch.ones(2, 1, *SIZE) > 0)


def electorate(tasks, network) -> Electorate:
    losses = {
        name: lambda said, targets, name=name, task=task: task.loss(said[name], targets[name])
        for name, task in tasks.items()
    }
    return Electorate(losses, dict.fromkeys(tasks, 1.0), network.owners())


def step(network, losses) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(network.parameters())
    sum(losses).backward()
    return optimizer


@pytest.mark.parametrize("voters", ["tasks", "joint"])
@pytest.mark.parametrize("criterion", sorted(CRITERIA))
def test_scoring(criterion, voters, bench):
    tasks, network, batch = bench
    scores = score(network, electorate(tasks, network).voters(voters), [(0, batch)], criterion)
    assert all(value.is_meta for of in scores.values() for value in of.values())


def test_a_training_step_with_masks(bench):
    tasks, network, (image, targets) = bench
    mask = {name: weight > 0 for name, weight in prunable(network).items()}
    masked = Masked(network, mask)
    predictions = network(image)
    optimizer = step(network, [task.loss(predictions[name], targets[name]) for name, task in tasks.items()])
    masked.mask_gradients()
    optimizer.step()
    assert masked.after_step(1, (image, targets)) == {}
    assert all(kept.is_meta for kept in masked.state_dict()["mask"].values())


def test_the_tensor_part_of_a_regrowth(bench):
    tasks, network, batch = bench
    weights = prunable(network)
    mask = {name: weight > 0 for name, weight in weights.items()}
    predictions = network(batch[0])
    optimizer = step(network, [task.loss(predictions[name], batch[1][name]) for name, task in tasks.items()])
    optimizer.step()
    voters = electorate(tasks, network).voters("tasks")
    regrowth = Regrowth(network, mask, optimizer, Schedule(10, 2), Growth(voters))
    votes = regrowth._votes(2, batch, frozenset(weights), regrowth.growth)
    assert set(votes) == set(tasks) and all(v.is_meta for of in votes.values() for v in of.values())
    with torch.no_grad():
        for weight in weights.values():
            regrowth._start_at_zero(weight, weight > 0)
    regrowth._set_mask({name: weight == 0 for name, weight in weights.items()})
    regrowth.mask_gradients()


def test_evaluation(bench, monkeypatch):
    tasks, network, (image, targets) = bench
    # the meta device cannot count values, because it has none; the counts have this shape elsewhere
    monkeypatch.setattr(
        torch, "bincount", lambda values, minlength: values.new_zeros(minlength, dtype=torch.int64)
    )
    losses = Losses(dict.fromkeys(tasks, 1.0), tuple(tasks)).to("meta")
    with evaluating(network):
        predictions = network(image)
        losses.update(tasks, predictions, targets)
        for name, task in tasks.items():
            metric = task.metric().to("meta")
            metric.update(predictions[name], targets[name])
            assert all(state.is_meta for state in metric.states.values())
