"""The atrous convolution is torch's own, also where it leaves out taps; dropout does what its name says."""

import pytest
import torch
from torch import nn

from models.aspp import Atrous, Dropout

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


@pytest.mark.parametrize("share", [0.5, 0.25, 0.9])
@pytest.mark.parametrize("shape", [(100_003,), (7, 5, 50, 60)])
def test_dropout_keeps_its_share_scaled_and_sends_back_the_same(share, shape):
    torch.manual_seed(0)
    x = torch.ones(shape, requires_grad=True)
    out = Dropout(share)(x)
    assert torch.equal(out.detach().unique(), torch.tensor([0, 65536 / (65536 - round(share * 65536))]))
    assert (out != 0).float().mean().item() == pytest.approx(1 - share, abs=4 / x.numel() ** 0.5)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_at_a_half_is_as_likely_at_every_place_of_a_word():
    torch.manual_seed(0)
    kept = Dropout(0.5)(torch.ones(40_000, 4)).bool().float()
    assert kept.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.01)
    assert torch.corrcoef(kept.T).fill_diagonal_(0).abs().max() < 0.02


def test_dropout_follows_the_seed_and_the_rest_is_torchs():
    x = torch.randn(3, 5)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(Dropout(0.5)(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert not Dropout(1.0)(x).any()
    assert Dropout(0.5)(x.to("meta")).shape == x.shape
