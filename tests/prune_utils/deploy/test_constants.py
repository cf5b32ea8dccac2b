"""Tensors that a network's code makes while it runs: means that are subtracted, buffers that are filled."""

import pytest
import torch
from torch import nn

from prune_utils.deploy.engines import wrap
from prune_utils.deploy.export import export
from tests.prune_utils.deploy.test_engine import compiled, engine  # noqa: F401 (a fixture)
from tests.prune_utils.deploy.test_reading import off

MEAN = (0.5, 0.4, 0.3)


class Making(nn.Module):
    """A convolution of what `make` makes of the image."""

    def __init__(self, make):
        super().__init__()
        self.conv, self.make = nn.Conv2d(3, 4, 3), make

    def forward(self, image):
        return self.make(self, image)


def mean(net, image):
    return net.conv(image - torch.tensor(MEAN).view(1, 3, 1, 1))


def scale(net, image):
    return net.conv(image / torch.tensor(255.0))


def offset(net, image):
    return net.conv(image) + torch.ones(1, 4, 1, 1)


def mean_in_64_bits(net, image):
    y = net.conv(image)
    y -= torch.tensor([*MEAN, 0.2], dtype=torch.float64).view(1, 4, 1, 1)
    return net.conv(y[:, :3])  # in 32 bits, as y was


def filled(net, image):
    out = torch.empty(2, 8, 8, 9)
    out[:, :4] = net.conv(image)
    out[:, 4:] = net.conv(image).relu()
    return out


def summed(net, image):
    out = torch.ones(2, 4, 8, 9)
    out *= net.conv(image)
    out += 1
    return out


MAKES = (mean, scale, offset, mean_in_64_bits, filled, summed)
IMAGE = torch.randn(2, 3, 10, 11, generator=torch.Generator().manual_seed(0))


@compiled
@pytest.mark.parametrize("inside", [False, True], ids=["outermost", "submodule"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("make", MAKES)
def test_engines_hold_what_the_code_makes(make, kind, inside):
    network = Making(make).eval()
    network = nn.Sequential(network, nn.ReLU()) if inside else network
    run = wrap(network, None, kind)
    images = IMAGE, IMAGE * 3
    found = [run(image) for image in images]  # what is filled in one call is made anew in the next
    with torch.no_grad():
        assert off(found, [network(image) for image in images]) < 1e-5


@pytest.mark.parametrize("form", ["sparse", "torch", "onnx"])
def test_exports_hold_what_the_code_makes(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
    network = nn.Sequential(Making(mean), nn.ReLU()).eval()
    mask = {"0.conv.weight": torch.rand(4, 3, 3, 3) < 0.5}
    with torch.no_grad():
        network[0].conv.weight.mul_(mask["0.conv.weight"])
        expected = network(IMAGE)
    path = tmp_path / {"sparse": "net.safetensors", "torch": "net.pt2", "onnx": "net.onnx"}[form]
    done = export(network, mask, path, form, example=(IMAGE,))
    assert done.live == int(mask["0.conv.weight"].sum())
    assert done.left_dense == {}
    if form == "sparse":
        return
    if form == "torch":
        found = torch.export.load(path).module()(IMAGE)
    else:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})[0])
    assert off(found, expected) < 1e-5
