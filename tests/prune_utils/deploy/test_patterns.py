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


def test_a_file_written_through_torch_export_names_its_layers(made, tmp_path):
    pytest.importorskip("onnxscript")
    net, sparsity = made
    net[4] = nn.GELU()
    path, image = tmp_path / "net.onnx", torch.randn(2, 3, 8, 8)
    export(net, sparsity.mask, path, "onnx", certificate=sparsity.certificate, example=(image,))
    found = pattern_of(path)
    assert (found.groups, found.wrong, found.dense) == (8 * 2 * 9 + 4 * 2, {}, ("0",))
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    (out,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(out), net(image).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [(5,), (2, 5)])
def test_linear_layers_written_through_torch_export_are_read_too(rows, tmp_path):
    pytest.importorskip("onnxscript")
    net = nn.Sequential(nn.Linear(8, 4), nn.GELU(), nn.Linear(4, 8))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[::2, ::2] = layer.weight[1::2, 1::2] = 0
    export(net, None, tmp_path / "net.onnx", "onnx", example=(torch.randn(*rows, 8),))
    found = pattern_of(tmp_path / "net.onnx", "2:4")
    assert (found.groups, found.wrong, found.dense) == (4 * 2 + 8, {}, ())
    assert set(pattern_of(tmp_path / "net.onnx", "1:4").wrong) == {"0", "2"}


def test_what_is_no_onnx_file_is_refused(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"garbage" * 30)
    with pytest.raises(ValueError, match="net.onnx is damaged or no ONNX file"):
        pattern_of(path, "2:4")
    with pytest.raises(FileNotFoundError):
        pattern_of(tmp_path / "gone.onnx", "2:4")


def test_only_the_certificate_is_read_of_a_models_properties(tmp_path):
    onnx, path = pytest.importorskip("onnx"), tmp_path / "net.onnx"
    export(nn.Conv2d(8, 4, 1), None, path, "onnx")
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"producer": "somebody"})
    onnx.save(model, str(path))
    assert pattern_of(path, "2:4").groups == 4 * 2
    for told in ("mine", "[1]"):
        onnx.helper.set_model_props(model, {"certificate": told})
        onnx.save(model, str(path))
        with pytest.raises(ValueError, match="net.onnx: its property 'certificate' is no JSON object"):
            pattern_of(path, "2:4")
