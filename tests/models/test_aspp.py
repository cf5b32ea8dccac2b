"""The atrous convolution is torch's own, also where it leaves out the taps that read only padding."""

import pytest
import torch
from torch import nn

from models.aspp import Atrous

RATE = 3


def outcome(layer, image):
    """Output, and the gradients of image, weight and bias."""
    image = image.clone().requires_grad_()
    out = layer(image)
    parameters = (image, layer.weight, layer.bias)
    return out, *torch.autograd.grad(out.square().sum(), parameters)


@pytest.mark.parametrize("size", [(7, 8), (4, 4), (3, 8), (8, 3), (3, 3), (1, 2)])
def test_equals_the_plain_convolution(size):
    torch.manual_seed(0)
    layer = Atrous(2, 5, RATE).double()
    plain = nn.Conv2d(2, 5, 3, padding=RATE, dilation=RATE).double()
    plain.load_state_dict(layer.state_dict())
    image = torch.randn(2, 2, *size, dtype=torch.float64)
    for ours, theirs in zip(outcome(layer, image), outcome(plain, image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "rows", "columns"), [((3, 4), 1, 3), ((4, 3), 3, 1), ((2, 2), 1, 1)])
def test_taps_that_read_only_padding_have_gradient_zero(size, rows, columns):
    layer = Atrous(1, 1, RATE)
    weight = outcome(layer, torch.rand(1, 1, *size) + 1)[2]
    used = (weight[0, 0] != 0).nonzero()
    assert [len(set(axis.tolist())) for axis in used.unbind(1)] == [rows, columns]
