"""Keypoints and edges by hand and against the plain reference."""

import pytest
import torch

from tasks.base import Target
from tasks.edges import edges
from tasks.keypoints import keypoints
from tests.tasks import reference


@pytest.mark.parametrize("task", [keypoints(), edges()])
def test_by_hand(task):
    prediction = torch.tensor([0.5, -1.0, 9.0]).view(1, 1, 1, 3)
    target = Target(torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3), prediction < 2)
    assert task.loss(prediction, target).item() == 1.25
    metric = task.metric()
    metric.update(prediction, target)
    twice = Target(target.value.repeat(2, 1, 1, 1), torch.tensor([True, False, False]).expand(2, 1, 1, 3))
    metric.update(prediction.repeat(2, 1, 1, 1), twice)
    # batches of 1 and 2 images with means 1.25 and 0.5; pixels 0.5 2 0.5 0.5
    assert metric.compute() == {"paper": {"err": 0.75}, "metric": {"err": 0.875}}


def test_metric_equals_the_reference():
    generator = torch.Generator().manual_seed(5)
    batches = []
    for images in (3, 1, 2):
        prediction = torch.randn(images, 1, 4, 4, generator=generator)
        value = 2 * torch.rand(images, 1, 19, 33, generator=generator) - 1
        batches.append((prediction, Target(value, torch.rand(value.shape, generator=generator) > 0.5)))
    metric = edges().metric()
    for batch in batches:
        metric.update(*batch)
    expected = reference.regression(batches)
    for protocol, values in metric.compute().items():
        assert values == pytest.approx(expected[protocol], rel=1e-6)


def test_picture_has_a_fixed_range():
    shown = keypoints().picture(torch.tensor([[[-1.0, 0.0, 1.0]]]))[0].astype(int).sum(1)
    assert shown[0] < shown[1] < shown[2]
