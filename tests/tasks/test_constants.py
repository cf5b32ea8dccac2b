"""What the best constant answer scores: worked by hand, and beside answers tried one by one."""

from __future__ import annotations

import math

import pytest
import torch

from common.constant import beats
from tasks.base import Target
from tasks.depth import depth
from tasks.edges import edges
from tasks.normals import normals
from tasks.segmentation import segmentation


def values(*numbers, hidden=0):
    """One image of one row; the last `hidden` pixels take no part."""
    value = torch.tensor(numbers)[None, None, None]
    valid = torch.ones_like(value, dtype=torch.bool)
    valid[..., len(numbers) - hidden :] = False
    return Target(value, valid)


def vectors(*directions):
    value = torch.tensor(directions, dtype=torch.float32).T[None, :, None]
    return Target(value, torch.ones(1, 1, 1, len(directions), dtype=torch.bool))


def best(task, *targets):
    metric = task.constant()
    for target in targets:
        metric.update(target)
    return metric.compute()


def test_segmentation_by_hand():
    # pixels: 5 of class 0, 2 of class 1, 1 of class 2; class 3 does not occur
    found = best(segmentation(4), values(0, 0, 0, 1), values(0, 0, 1, 2))
    assert found["paper"]["mIoU"] == pytest.approx(100 * 5 / 8)
    assert found["metric"]["mIoU"] == pytest.approx(100 * 5 / 8 / 3)
    assert found["metric"]["pixel_acc"] == pytest.approx(62.5)
    entropy = -(5 / 8 * math.log(5 / 8) + 2 / 8 * math.log(2 / 8) + 1 / 8 * math.log(1 / 8))
    assert found["metric"]["err"] == pytest.approx(entropy)
    # the paper's accuracy is a mean of batches: 0 has 1 / 2 and 1 / 4, 1 has 1 / 2 and 3 / 4
    found = best(segmentation(2), values(0, 1), values(0, 1, 1, 1))
    assert found["paper"]["pixel_acc"] == pytest.approx(62.5)
    assert found["metric"]["pixel_acc"] == pytest.approx(100 * 4 / 6)


def test_ignored_pixels_and_class_weights_count_as_in_the_metric():
    task = segmentation(2, ignored_is_error=True, class_weights=[1.0, 3.0])
    found = best(task, values(0, 0, 1, 0, 0, hidden=2))
    assert found["paper"]["pixel_acc"] == pytest.approx(100 * 2 / 5)
    assert found["metric"]["pixel_acc"] == pytest.approx(100 * 2 / 3)
    shares = (2 / 5, 3 / 5)  # 2 pixels of weight 1, 1 of weight 3
    assert found["metric"]["err"] == pytest.approx(-sum(p * math.log(p) for p in shares))


def test_segmentation_is_what_the_metric_gives_that_constant():
    generator = torch.Generator().manual_seed(0)
    task = segmentation(5, ignored_is_error=True, class_weights=[1, 2, 0.5, 1, 3])
    targets = []
    for images in (2, 1, 3):
        label = torch.randint(0, 4, (images, 1, 6, 7), generator=generator)
        targets.append(Target(label, torch.rand(label.shape, generator=generator) > 0.2))
    found, tried = best(task, *targets), []
    for c in range(5):
        metric = task.metric()
        for target in targets:
            metric.update(torch.eye(5)[c].view(1, 5, 1, 1).expand(len(target.value), 5, 1, 1), target)
        tried.append(metric.compute())
    for protocol in ("paper", "metric"):
        for name in ("mIoU", "pixel_acc"):
            assert found[protocol][name] == pytest.approx(max(each[protocol][name] for each in tried))


def test_regression_by_hand():
    # the median is 0.5: errors 1, 0, 0.25; hidden pixels do not count
    found = best(edges(), values(-0.5, 0.5, 0.75, -1.0, -1.0, hidden=2))
    assert [found[name]["err"] for name in ("paper", "metric")] == pytest.approx([1.25 / 3] * 2)
    # over pixels -1 is the median of (1, -1, -1, -1): 2 / 4; by batches it has (2 + 0) / 2, as every other
    found = best(edges(), values(1.0), values(-1.0, -1.0, -1.0))
    assert found["metric"]["err"] == pytest.approx(0.5) and found["paper"]["err"] == pytest.approx(1.0)


def test_depth_by_hand():
    # every level is a power of 1.25 ** (1 / 64): 1 and 1.25 ** 8 are levels
    far = 1.25**8
    found = best(depth(), values(1.0, 1.0, far))["metric"]
    assert found["abs"] == pytest.approx((far - 1) / 3)  # at 1, the median
    assert found["rel"] == pytest.approx((1 - 1 / far) / 3)
    assert found["d1.25"] == found["d1.25^3"] == pytest.approx(200 / 3)
    # one depth is within 1.25 ** 3 of two that are up to 1.25 ** 6 apart
    assert best(depth(), values(1.0, 1.25**5.5))["paper"]["d1.25^3"] == 100
    assert best(depth(), values(1.0, 1.25**6.5))["paper"]["d1.25^3"] == 50


def test_depths_of_0_are_within_no_ratio_and_have_no_relative_error():
    found = best(depth(), values(1.0, 1.0, 1.0, 0.0))
    assert found["paper"]["d1.25"] == 75 and found["metric"]["d1.25"] == 100
    assert found["metric"]["abs"] == pytest.approx(0.25) and found["metric"]["rel"] == pytest.approx(
        0, abs=1e-12
    )


@pytest.mark.parametrize("protocol", ["paper", "metric"])
def test_no_depth_tried_is_better_and_one_step_away_is_as_good(protocol):
    generator = torch.Generator().manual_seed(1)
    targets = []
    for images in (2, 1):
        value = 0.5 + 3 * torch.rand(images, 1, 6, 7, generator=generator)
        targets.append(Target(value, torch.rand(value.shape, generator=generator) > 0.3))
    found, tried = best(depth(), *targets)[protocol], []
    for level in torch.linspace(0.4, 4, 400):
        metric = depth().metric()
        for target in targets:
            metric.update(level.expand(len(target.value), 1, 1, 1), target)
        tried.append(metric.compute()[protocol])
    for name in ("abs", "rel"):
        assert found[name] == pytest.approx(min(each[name] for each in tried), rel=5e-3)
    for name in ("d1.25", "d1.25^2"):
        assert found[name] == pytest.approx(max(each[name] for each in tried), abs=1.5)


def test_normals_by_hand():
    up, right = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)
    found = best(normals(encoding="decoded"), vectors(up, up, up, right))
    assert found["paper"] == found["metric"]
    found = found["metric"]
    assert found["mean"] == pytest.approx(90 / 4)  # of `up`; that of the mean direction is 33.2
    assert found["median"] == pytest.approx(0, abs=1e-9)
    # the mean direction is atan(1 / 3) = 18.43 degrees from `up`
    assert (found["11.25"], found["22.5"], found["45"]) == (75, 75, 75)
    assert best(normals(encoding="decoded"), vectors(up, right))["metric"]["45"] in (50, 100)


def test_lengths_do_not_matter_and_zero_vectors_are_at_right_angles():
    found = best(normals(encoding="encoded"), vectors((0.0, 0.0, 200.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)))
    assert found["metric"]["mean"] == pytest.approx(30) and found["metric"]["11.25"] == pytest.approx(200 / 3)


def test_the_best_direction_is_near_what_the_metric_gives_it():
    generator = torch.Generator().manual_seed(2)
    value = torch.tensor([0.2, 0.3, 0.9]).view(1, 3, 1, 1) + 0.3 * torch.randn(
        2, 3, 20, 20, generator=generator
    )
    target = Target(value, torch.rand(2, 1, 20, 20, generator=generator) > 0.2)
    task = normals(encoding="decoded")
    unit = task.decode(value).movedim(1, -1)[target.valid[:, 0]]
    metric = task.metric()
    metric.update(unit.mean(0).view(1, 3, 1, 1).expand(2, 3, 1, 1), target)
    mean, found = metric.compute()["metric"], best(task, target)["metric"]
    assert mean["mean"] - 0.5 < found["mean"] < mean["mean"] + 0.05
    assert found["22.5"] > mean["22.5"] - 2


@pytest.mark.parametrize(
    "task", [segmentation(3), edges(), depth(), normals(encoding="decoded")], ids=lambda t: t.name
)
def test_without_a_valid_pixel_every_value_is_nan(task):
    value = torch.zeros(
        1, 3 if task.name == "sn" else 1, 2, 2, dtype=torch.int64 if task.name == "seg" else None
    )
    found = best(task, Target(value, torch.zeros(1, 1, 2, 2, dtype=torch.bool)))
    assert set(found) == {"paper", "metric"}
    for scores in found.values():
        assert set(scores) == set(task.directions)
        assert all(math.isnan(score) for score in scores.values())


def test_an_equal_score_beats_nothing():
    assert beats(44.1, 44.0, True) and not beats(44.0, 44.0, True) and not beats(43.0, 44.0, True)
    assert beats(0.4, 0.5, False) and not beats(0.5 + 1e-12, 0.5, False) and not beats(0.5 - 1e-9, 0.5, False)
    assert beats(math.nan, 1.0, True) and beats(1.0, math.nan, False)
