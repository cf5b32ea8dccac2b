"""Depth by hand and against the plain reference."""

import pytest
import torch

from tasks.base import Target
from tasks.depth import depth
from tests.tasks import reference


def row(values):
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def target_of(values):
    """None marks an invalid pixel."""
    valid = torch.tensor([value is not None for value in values]).view(1, 1, 1, -1)
    return Target(row([value or 0 for value in values]), valid)


def test_loss_by_hand():
    assert depth().loss(row([1, 2, 5]), target_of([2, 4, None])).item() == 1.5


def test_metric_by_hand():
    metric = depth().metric()
    metric.update(row([2.5, 3, 100]), target_of([2, 4, None]))  # ratios 1.25 and 4/3
    metric.update(row([-1, 1, 1]).repeat(2, 1, 1, 1), Target(row([1, 0, 0]).repeat(2, 1, 1, 1), BOTH))
    scores = metric.compute()
    # batch 1: |e| = 0.5, 1; rel 1/4, 1/4
    # batch 2: first image |e| = 2 at g = 1 and 1 at g = 0; second image 1 at g = 0
    assert scores["paper"]["abs"] == pytest.approx((0.75 + 2 * 4 / 3) / 3)
    assert scores["metric"]["abs"] == pytest.approx((0.5 + 1 + 2 + 1 + 1) / 5)
    assert scores["paper"]["rel"] == pytest.approx((0.25 + 2 * 2) / 3)
    assert scores["metric"]["rel"] == pytest.approx((0.25 + 0.25 + 2) / 3)
    # the negative prediction passes in the paper; g = 0 is a miss there and left out of metric
    assert [scores["paper"][name] for name in ("d1.25", "d1.25^2", "d1.25^3")] == [40, 60, 60]
    expected = [100 / 3, 200 / 3, 200 / 3]
    assert [scores["metric"][name] for name in ("d1.25", "d1.25^2", "d1.25^3")] == pytest.approx(expected)


BOTH = torch.tensor([[True, True, False], [False, True, False]]).view(2, 1, 1, 3)


def test_metric_equals_the_reference():
    generator = torch.Generator().manual_seed(4)
    batches = []
    for images in (1, 2, 4):
        prediction = torch.randn(images, 1, 4, 4, generator=generator) + 1
        value = 0.05 + 2 * torch.rand(images, 1, 21, 30, generator=generator)
        valid = torch.rand(value.shape, generator=generator) > 0.2
        batches.append((prediction, Target(value, valid)))
    metric = depth().metric()
    for batch in batches:
        metric.update(*batch)
    expected = reference.depth(batches)
    for protocol, values in metric.compute().items():
        assert values == pytest.approx(expected[protocol], rel=1e-6)


def test_unit_is_the_callers():
    assert depth().directions["abs"] == ("m", False)
    assert depth(unit="").directions["abs"].unit == ""


def test_picture_takes_the_range_of_like():
    like = Target(torch.linspace(0, 1, 101).view(1, 1, -1), None)
    shown = depth().picture(torch.tensor([[[-5.0, 0.02, 0.98, 70.0]]]), None, like=like)
    dark, bright = shown[0, 0].tolist(), shown[0, 3].tolist()
    assert shown[0, 1].tolist() == dark != bright == shown[0, 2].tolist()
    constant = depth().picture(torch.ones(1, 2, 2))
    assert constant.shape == (2, 2, 3)
