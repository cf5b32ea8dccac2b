"""Resizing of targets and predictions, and the mean over valid pixels."""

import pytest
import torch
from torch.nn import functional

from tasks.base import (
    Target,
    at_least_float32,
    masked_mean,
    resize_nearest,
    resize_prediction,
    resize_target,
)

SIZES = [((8, 6), (4, 3)), ((7, 5), (3, 4)), ((480, 640), (61, 81)), ((61, 81), (480, 640)), ((5, 9), (9, 5))]


@pytest.mark.parametrize(("source", "size"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_resize_nearest_is_interpolate(source, size, dtype):
    value = torch.randint(0, 2 if dtype == torch.bool else 1000, (2, 1, *source)).to(dtype)
    expected = functional.interpolate(value.double(), size=size).to(dtype)
    assert torch.equal(resize_nearest(value, size), expected)


def test_resize_target_by_hand():
    value = torch.arange(16).view(1, 1, 4, 4)
    small = resize_target(Target(value, value % 4 == 0), (2, 2))
    assert small.value.flatten().tolist() == [0, 2, 8, 10]
    assert small.valid.flatten().tolist() == [True, False, True, False]
    assert small.value.dtype == torch.int64 and small.valid.dtype == torch.bool


def test_same_size_is_not_copied():
    value = torch.zeros(1, 1, 2, 2)
    assert resize_prediction(value, (2, 2)) is value
    assert resize_target(Target(value, value > 0), (2, 2)).value is value


def test_at_least_float32():
    kinds = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    results = [at_least_float32(torch.zeros(1, dtype=kind)).dtype for kind in kinds]
    assert results == [torch.float32, torch.float32, torch.float32, torch.float64]


def test_masked_mean():
    value = torch.tensor([1.0, 2.0, float("nan")], requires_grad=True)
    assert masked_mean(value, torch.tensor([True, True, False])).item() == 1.5
    nothing = masked_mean(value, torch.zeros(3, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0 and value.grad.tolist() == [0, 0, 0]
