import copy

import pytest
import torch
from torch import nn

from prune_utils import sparsify
from prune_utils.deploy.export import export
from prune_utils.deploy.patterns import pattern_of

pytest.importorskip("onnx")


@pytest.fixture
def made():
    """A network of convolutions with channels that a simplification would drop, 2:4 but for its first."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    with torch.no_grad():
        net[3].weight[:, 5] = 0  # nobody reads channel 5
    losses = {"a": lambda out, targets: out[:, :2].abs().mean(), "b": lambda out, targets: out[:, 2:].std()}
    sparsity = sparsify(
        net, losses, [(torch.randn(2, 3, 8, 8), None)], granularity="2:4", criterion="magnitude"
    )
    return net.eval(), sparsity


def test_the_exported_file_holds_the_pattern(made, tmp_path):
    net, sparsity = made
    done = export(net, sparsity.mask, tmp_path / "net.onnx", "onnx", certificate=sparsity.certificate)
    found = pattern_of(tmp_path / "net.onnx")
    assert (found.granularity, found.groups, found.wrong, found.dense) == (
        "2:4",
        8 * 2 * 9 + 4 * 2,
        {},
        ("0",),
    )
    assert done.channels_before == done.channels_after  # left out, channel 5 would have moved its neighbours
    image = torch.randn(1, 3, 8, 8)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    (out,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), net(image).detach(), rtol=1e-4, atol=1e-5)


def test_a_broken_group_is_found(made, tmp_path):
    net, sparsity = made
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken[5].weight[1, :4] = 1.0
    export(broken, None, tmp_path / "net.onnx", "onnx", certificate=sparsity.certificate)
    assert pattern_of(tmp_path / "net.onnx").wrong == {"5": 1}
    assert pattern_of(tmp_path / "net.onnx", "1:4").wrong == {"3": 8 * 2 * 9, "5": 8}


def test_linear_layers_are_read_along_their_inputs(tmp_path):
    net = nn.Linear(8, 3)
    with torch.no_grad():
        net.weight.fill_(1.0)[:, ::2] = 0.0
    export(net, None, tmp_path / "net.onnx", "onnx")
    found = pattern_of(tmp_path / "net.onnx", "2:4")
    assert (found.groups, found.wrong) == (6, {})
    assert sum(pattern_of(tmp_path / "net.onnx", "1:4").wrong.values()) == 6


def test_a_file_without_a_pattern_is_refused(tmp_path):
    export(nn.Conv2d(4, 4, 1), None, tmp_path / "net.onnx", "onnx")
    with pytest.raises(ValueError, match="granularity weight is no pattern N:M"):
        pattern_of(tmp_path / "net.onnx")
