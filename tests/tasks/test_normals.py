"""Normals by hand and against the plain reference."""

import numpy as np
import pytest
import torch

from tasks.base import Target
from tasks.normals import NormalsMetric, angles, normals
from tests.tasks import reference


def plane(angle_list):
    """Vectors [1, 3, 1, M] in the x y plane at these degrees from the x axis."""
    angle = torch.tensor(angle_list, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin(), 0 * angle]).float()[None, :, None]


def everywhere(value):
    return Target(value, torch.ones_like(value[:, :1], dtype=torch.bool))


def test_loss_by_hand():
    task = normals(encoding="decoded")
    target = everywhere(7 * plane([0, 0, 0]))
    assert task.loss(3 * plane([0, 90, 180]), target).item() == pytest.approx(1, abs=1e-6)
    target.valid[..., 2] = False
    assert task.loss(3 * plane([0, 90, 180]), target).item() == pytest.approx(0.5, abs=1e-6)


def test_loss_takes_raw_encodings():
    # (255, 0, 0) and (255, 255, 0) are 45 degrees apart
    task = normals(encoding="encoded")
    target = everywhere(torch.tensor([255.0, 255.0, 0.0]).view(1, 3, 1, 1))
    loss = task.loss(torch.tensor([2.0, 0.0, 0.0]).view(1, 3, 1, 1), target)
    assert loss.item() == pytest.approx(1 - 0.5**0.5, abs=1e-6)


def test_gradient_at_a_zero_prediction_is_finite():
    prediction = torch.zeros(1, 3, 1, 1, requires_grad=True)
    normals(encoding="decoded").loss(prediction, everywhere(plane([0]))).backward()
    assert prediction.grad.isfinite().all()


def test_angles_keep_their_digits_near_the_ends():
    degrees = [0, 0.001, 0.5, 90, 179.5, 179.999, 180]
    found = angles(plane(degrees), 200 * plane([0] * 7)).flatten().tolist()
    assert found == pytest.approx(degrees, abs=2e-5)
    zero = torch.zeros(1, 3, 1, 1)
    assert angles(zero, plane([10])).item() == angles(plane([10]), zero).item() == 90


def test_metric_by_hand():
    metric = normals(encoding="decoded").metric()
    metric.update(plane([5, 20, 25, 99]), everywhere(plane([0] * 4)))
    target = everywhere(plane([0] * 2))
    target.valid[..., 1] = False
    metric.update(plane([40, 7]), target)
    scores = metric.compute()
    assert scores["paper"] == scores["metric"]
    expected = {"mean": 37.8, "median": 25, "11.25": 20, "22.5": 40, "30": 60, "45": 80}
    assert scores["metric"]["median"] == pytest.approx(25, abs=0.01)
    del expected["median"], scores["metric"]["median"]
    assert scores["metric"] == pytest.approx(expected, rel=1e-6)


def test_what_only_invalid_pixels_read_does_not_count():
    target = everywhere(plane([0, 0, 0]))
    target.valid[..., 1:] = False
    prediction = plane([20, 50, 0])
    prediction[..., 2] = float("nan")
    metric = NormalsMetric()
    metric.update(prediction, target)
    scores = metric.compute()["metric"]
    assert scores["mean"] == pytest.approx(20, rel=1e-6) and scores["median"] == pytest.approx(20, abs=0.01)
    assert (scores["11.25"], scores["22.5"]) == (0, 100)


def test_median_of_an_even_number_is_between_the_middle_two():
    metric = NormalsMetric()
    metric.update(plane([0, 90]), everywhere(plane([0, 0])))
    assert metric.compute()["metric"]["median"] == pytest.approx(45, abs=0.01)


def test_a_pixel_at_a_threshold_counts(monkeypatch):
    for limit in (11.25, 22.5, 30.0, 45.0):
        exact = torch.tensor([limit])
        above = torch.nextafter(exact, torch.tensor([180.0]))
        for value, share in ((exact, 100), (above, 0)):
            metric = NormalsMetric()
            monkeypatch.setattr("tasks.normals.angles", lambda *_, value=value: value.view(1, 1, 1).clone())
            metric.update(plane([0]), everywhere(plane([0])))
            assert metric.compute()["paper"][f"{limit:g}"] == share


def test_metric_equals_the_reference():
    generator = torch.Generator().manual_seed(3)
    batches = []
    for images in (2, 1, 3):
        prediction = torch.randn(images, 3, 6, 8, generator=generator)
        value = prediction.repeat_interleave(5, 2).repeat_interleave(4, 3)
        value = 9 * (value + 0.7 * torch.randn(value.shape, generator=generator))
        valid = torch.rand(images, 1, 30, 32, generator=generator) > 0.2
        batches.append((prediction, Target(value, valid)))
    metric = NormalsMetric()
    for batch in batches:
        metric.update(*batch)
    expected = reference.normals(batches)
    for protocol, values in metric.compute().items():
        assert values.pop("median") == pytest.approx(expected[protocol]["median"], abs=0.01)
        rest = {name: value for name, value in expected[protocol].items() if name != "median"}
        assert values == pytest.approx(rest, rel=1e-6)


def test_unknown_encoding_lists_the_choices():
    with pytest.raises(ValueError, match="encoding of normals 'raw' is not one of decoded, encoded"):
        normals(encoding="raw")


def test_pictures_by_hand():
    value = torch.tensor([0.0, -1.0, 0.0]).view(3, 1, 1)
    assert normals(encoding="decoded").picture(value).tolist() == [[[128, 0, 128]]]
    encoded = torch.tensor([30.0, 0.0, 40.0]).view(3, 1, 1)
    assert normals(encoding="encoded").picture(encoded).tolist() == [[[153, 0, 204]]]
    assert np.array_equal(normals(encoding="encoded").picture(encoded / 50), [[[153, 0, 204]]])
