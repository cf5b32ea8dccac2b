"""What is written of networks that return more than tensors, or run a layer twice; and calls of engines."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from prune_utils import apply
from prune_utils.deploy.engines import wrap
from prune_utils.deploy.export import export
from tests.prune_utils.test_attaching import raises


class Found(NamedTuple):
    boxes: Tensor
    scores: Tensor


class Returns(nn.Module):
    """A network that returns what `make` makes of a value that no ONNX file holds by hand."""

    def __init__(self, make):
        super().__init__()
        self.conv, self.make = nn.Conv2d(3, 4, 3), make

    def forward(self, image):
        return self.make(self.conv(image).sigmoid().cumsum(1))


def named(value):
    return {"found": Found(value, value * 2), "classes": 3}


IMAGE = torch.randn(2, 3, 8, 8)
MASK = {"conv.weight": torch.rand(4, 3, 3, 3) < 0.5}


def test_a_named_tuple_is_refused_where_no_file_can_name_it(tmp_path):
    with raises(
        "the network returns a Found, which a .pt2 file cannot name: return a dict or a tuple, or choose "
        "format 'onnx' or 'sparse'"
    ):
        export(Returns(named), MASK, tmp_path / "net.pt2", "torch", example=(IMAGE,))
    assert not list(tmp_path.iterdir())


def test_an_onnx_file_holds_what_is_computed(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = Returns(named).eval()
    apply(net, MASK)
    done = export(net, MASK, tmp_path / "net.onnx", "onnx", example=(IMAGE,))
    session = runtime.InferenceSession(str(done.path))
    (entry,) = session.get_inputs()
    boxes, scores = session.run(None, {entry.name: IMAGE.numpy()})
    found = net(IMAGE)["found"]
    assert torch.allclose(torch.from_numpy(boxes), found.boxes, atol=1e-6)
    assert torch.allclose(torch.from_numpy(scores), found.scores, atol=1e-6)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, image):
        return {"a": self.last(self.layer(self.layer(image).relu()).relu())}


def test_a_layer_that_runs_twice_counts_once(tmp_path):
    net = Twice()
    mask = {"layer.weight": torch.arange(144).reshape(4, 4, 3, 3) % 3 == 0}
    apply(net, mask)
    done = export(net, mask, tmp_path / "net.safetensors")
    assert (done.prunable, done.kept, done.live) == (144 + 8, 48 + 8, 48 + 8)


class Deciding(nn.Module):
    """Its code asks for the kind of its input, which a trace answers otherwise than a run."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, image):
        return self.conv(image) * (2 if isinstance(image, fx.Proxy) else 1)


FILES = {"torch": "net.pt2", "onnx": "net.onnx"}


@pytest.mark.parametrize("form", FILES)
def test_a_trace_of_another_program_is_not_written(form, tmp_path):
    with pytest.raises(ValueError, match="output 0 of the traced network is off by .* of its range"):
        export(Deciding(), None, tmp_path / FILES[form], form, example=(IMAGE,))
    assert not list(tmp_path.iterdir())
    assert export(Deciding(), None, tmp_path / "net.safetensors", example=(IMAGE,)).path.exists()


@pytest.mark.parametrize("form", FILES)
def test_what_travels_along_is_json(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="cannot be written as JSON: Object of type PosixPath is not"):
        export(nn.Conv2d(3, 4, 1), None, tmp_path / FILES[form], form, extra={"path": tmp_path})
    assert not list(tmp_path.iterdir())


def loaded(path):
    """What runs an exported file: tensors -> tensors in the order of its outputs."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs):
        fed = dict(zip(names, (value.numpy() for value in inputs), strict=True))
        return [torch.from_numpy(value) for value in session.run(None, fed)]

    return run


@pytest.mark.parametrize("form", FILES)
def test_an_example_may_have_any_type_and_a_gradient(form, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid()).eval()
    if form == "onnx":
        pytest.importorskip("onnxscript")
    for image in (IMAGE.double(), IMAGE.half(), IMAGE.clone().requires_grad_()):
        done = export(net, None, tmp_path / FILES[form], form, example=(image,))
    (found,) = pytree.tree_leaves(loaded(done.path)(IMAGE))
    torch.testing.assert_close(found, net(IMAGE).detach(), rtol=1e-4, atol=1e-5)


class Returning(nn.Module):
    """Returns what `make` makes of its image and of a value."""

    def __init__(self, make, last):
        super().__init__()
        self.conv, self.last, self.make = nn.Conv2d(3, 3, 3, padding=1), last, make

    def forward(self, image):
        return self.make(image, self.last(self.conv(image)))


@pytest.mark.parametrize("last", [nn.ReLU(), nn.Sigmoid()])  # by hand, and through torch.export
@pytest.mark.parametrize(
    "make",
    [
        lambda image, found: {"image": found},
        lambda image, found: {"image": found, "image.input": found * 1, "conv": image},
        lambda image, found: {"rec": found, "input": image},
        lambda image, found: {"image": image, "conv": found},
        lambda image, found: {"a": image, "b": image, "image": found},
    ],
)
def test_outputs_of_an_onnx_file_may_be_named_as_its_input_or_be_it(make, last, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = Returning(make, last).eval()
    expected = net(IMAGE)
    run = wrap(net, None, "onnx", example=(IMAGE,))
    found = loaded(export(net, None, tmp_path / "net.onnx", "onnx", example=(IMAGE,)).path)(IMAGE)
    assert list(run(IMAGE)) == list(expected)
    for ours, told, theirs in zip(run(IMAGE).values(), found, expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)
        assert torch.equal(ours, told)


@pytest.mark.parametrize(
    ("net", "image"),
    [
        (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(2, 5, 8)),
        (nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(8)),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.randn(3, 9, 9)),
    ],
)
def test_an_onnx_file_takes_its_own_example(net, image, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    expected = net(image).detach()
    (found,) = loaded(export(net, None, tmp_path / "net.onnx", "onnx", example=(image,)).path)(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wrap(net, None, "onnx")(image), expected, rtol=1e-4, atol=1e-5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x, y, scale=1.0):
        return self.left(x) - self.right(y) * scale


def test_engines_take_arguments_by_name():
    net, x, y = Pair().eval(), torch.randn(2, 4), torch.randn(2, 5)
    run = wrap(net, None, "dense")
    expected = run(x, y)
    assert torch.equal(run(x, y=y), expected) and torch.equal(run(y=y, x=x), expected)
    rest = ": what else the network takes is traced where `example` holds it"
    for given, by_name, said in (
        ((x, y), {"scale": 2.0}, "2 by place, scale"),
        ((x,), {"x": x}, "1 by place, x"),
        ((), {"y": y}, "y"),
    ):
        with raises(f"the engine takes x, y, not {said}{rest}"):
            run(*given, **by_name)
    run = wrap(net, None, "dense", example=(x, y, torch.tensor(2.0)))
    assert torch.allclose(run(x, y, scale=torch.tensor(2.0)), net(x, y, 2.0), atol=1e-6)


class Even(nn.Module):
    """Refuses without a word, as an assertion does."""

    def forward(self, x):
        if x.shape[-1] % 8:
            raise AssertionError
        return x * 2


@pytest.mark.parametrize("form", FILES)
def test_an_error_without_a_message_is_told_by_its_name(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    with raises("torch.export refuses this network: AssertionError"):
        export(nn.Sequential(nn.Conv2d(3, 4, 1), Even()), None, tmp_path / FILES[form], form)
