"""Segmentation by hand and against the plain reference."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tasks.base import Target
from tasks.pictures import PALETTE
from tasks.segmentation import segmentation
from tests.tasks import reference


def target_of(rows, ignore=9):
    """Class numbers; `ignore` marks invalid pixels."""
    value = torch.tensor(rows)[:, None]
    return Target(value.masked_fill(value == ignore, 0), value != ignore)


def logits_of(rows, classes):
    """Logits [N, C, h, w] that make the class in rows 3 times as likely as each of the others."""
    return functional.one_hot(torch.tensor(rows), classes).movedim(-1, 1) * math.log(3)


def test_loss_by_hand():
    # right: p = 3/5; wrong: p = 1/5
    prediction, target = logits_of([[[0, 1]]], 3), target_of([[[0, 2]]])
    expected = -(math.log(3 / 5) + math.log(1 / 5)) / 2
    assert segmentation(3).loss(prediction, target).item() == pytest.approx(expected, rel=1e-6)
    weighted = segmentation(3, class_weights=[1, 1, 3]).loss(prediction, target).item()
    assert weighted == pytest.approx(-(math.log(3 / 5) + 3 * math.log(1 / 5)) / 4, rel=1e-6)


@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.0, 0.25]])
def test_loss_is_torchs(class_weights):
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randn(2, 4, 5, 7, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 1, 20, 28), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    target = Target(labels.masked_fill(labels == 255, 0), labels != 255)
    ours = segmentation(4, class_weights=class_weights).loss(prediction, target)
    weight = None if class_weights is None else torch.tensor(class_weights)
    small = functional.interpolate(labels.float(), size=(5, 7)).long()[:, 0]
    plain = functional.cross_entropy(prediction, small, weight, ignore_index=255)
    assert ours.item() == pytest.approx(plain.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, prediction)[0] for loss in (ours, plain)]
    torch.testing.assert_close(*gradients)


def test_metric_by_hand():
    # classes 0..3; 3 occurs only in the predictions, 2 only in the labels; one ignored pixel
    metric = segmentation(5).metric()
    metric.update(logits_of([[[0, 0, 1, 3]]], 5), target_of([[[0, 0, 0, 9]]]))
    metric.update(logits_of([[[1, 3]], [[0, 1]]], 5), target_of([[[1, 2]], [[9, 9]]]))
    scores = metric.compute()
    # IoU: class 0 = 2/3, class 1 = 1/2, class 2 = 0, class 3 = 0, class 4 does not occur
    assert scores["paper"]["mIoU"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert scores["metric"]["mIoU"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 4)
    # batch 1 (one image): 2 of 3 right; batch 2 (two images): 1 of 2
    assert scores["paper"]["pixel_acc"] == pytest.approx(100 * (2 / 3 + 2 * 1 / 2) / 3)
    assert scores["metric"]["pixel_acc"] == pytest.approx(100 * 3 / 5)
    right, wrong = -math.log(3 / 7), -math.log(1 / 7)
    first, second = (2 * right + wrong) / 3, (right + wrong) / 2
    assert scores["paper"]["err"] == pytest.approx((first + 2 * second) / 3, rel=1e-6)
    assert scores["metric"]["err"] == pytest.approx((3 * right + 2 * wrong) / 5, rel=1e-6)


def test_ignored_pixels_are_errors_in_the_papers_accuracy_only():
    metric = segmentation(2, ignored_is_error=True).metric()
    metric.update(logits_of([[[0, 1, 1, 1]]], 2), target_of([[[0, 1, 9, 9]]]))
    scores = metric.compute()
    assert scores["paper"]["pixel_acc"] == 50 and scores["metric"]["pixel_acc"] == 100
    assert scores["paper"]["mIoU"] == scores["metric"]["mIoU"] == 100


def test_nothing_right_is_zero():
    metric = segmentation(2).metric()
    metric.update(logits_of([[[0, 0]]], 2), target_of([[[1, 1]]]))
    scores = metric.compute()
    assert scores["paper"]["mIoU"] == scores["metric"]["mIoU"] == 0


@pytest.mark.parametrize("ignored_is_error", [False, True])
@pytest.mark.parametrize("class_weights", [None, [0.5, 2.0, 1.0, 0.25, 3.0]])
def test_metric_equals_the_reference(ignored_is_error, class_weights):
    generator = torch.Generator().manual_seed(2)
    batches = []
    for images in (1, 3, 2):
        prediction = 3 * torch.randn(images, 5, 4, 5, generator=generator)
        value = torch.randint(0, 4, (images, 1, 30, 37), generator=generator)
        valid = torch.rand(value.shape, generator=generator) > 0.1 * images
        batches.append((prediction, Target(value.masked_fill(~valid, 0), valid)))
    metric = segmentation(5, ignored_is_error=ignored_is_error, class_weights=class_weights).metric()
    for batch in batches:
        metric.update(*batch)
    expected = reference.segmentation(batches, 5, ignored_is_error, class_weights)
    for protocol, values in metric.compute().items():
        assert values == pytest.approx(expected[protocol], rel=1e-6)


def test_argmax_ties_are_the_first_class():
    metric = segmentation(3).metric()
    metric.update(torch.zeros(1, 3, 1, 1), target_of([[[0]]]))
    assert metric.compute()["metric"]["pixel_acc"] == 100


def test_unknown_class_is_named():
    with pytest.raises(ValueError, match=r"class 4 in a seg target is not one of 0\.\.2"):
        segmentation(3).metric().update(torch.zeros(2, 3, 1, 2), target_of([[[4, 0]], [[0, 0]]]))


def test_what_only_invalid_pixels_read_does_not_count():
    prediction, target = logits_of([[[0, 0]]], 2).clone(), target_of([[[0, 9]]])
    prediction[..., 1] = math.nan
    metric = segmentation(2).metric()
    metric.update(prediction, target)
    assert metric.compute()["metric"]["err"] == pytest.approx(-math.log(3 / 4), rel=1e-6)


def test_class_weights_must_fit():
    with pytest.raises(ValueError, match="2 class weights were given for 3 classes"):
        segmentation(3, class_weights=[1, 2])


def test_palette_is_distinct_and_has_no_grey():
    assert len({tuple(colour) for colour in PALETTE}) == 40
    assert (np.ptp(PALETTE.astype(int), axis=1) > 30).all()


def test_picture_by_hand():
    target = target_of([[[0, 2, 9]]])
    picture = segmentation(3).picture(target.value[0], target.valid[0])
    assert picture.tolist() == [[PALETTE[0].tolist(), PALETTE[2].tolist(), [128, 128, 128]]]
