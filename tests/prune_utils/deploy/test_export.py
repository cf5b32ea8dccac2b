"""What is written of networks that return more than tensors, or run a layer twice; and calls of engines."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

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


@pytest.mark.parametrize(("form", "ending"), [("torch", "pt2"), ("onnx", "onnx")])
def test_an_error_without_a_message_is_told_by_its_name(form, ending, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    with raises("torch.export refuses this network: AssertionError"):
        export(nn.Sequential(nn.Conv2d(3, 4, 1), Even()), None, tmp_path / f"net.{ending}", form)
