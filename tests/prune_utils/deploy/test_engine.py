"""The compiled convolution against PyTorch's, and every engine against the masked network."""

import math
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from prune_utils import apply
from prune_utils.deploy import build, layers
from prune_utils.deploy.comparing import differences, worst_difference
from prune_utils.deploy.engines import wrap
from prune_utils.deploy.graph import Conv, Graph
from prune_utils.deploy.layers import TILINGS, TILINGS16, DenseLayer, SparseLayer, bf16_runs
from prune_utils.deploy.plain import Layer
from prune_utils.deploy.tuning import Choice, Timed, within
from tests.prune_utils.deploy.networks import random_image, random_network, worst


@pytest.fixture(scope="module")
def engine():
    """The compiled engine, built when the first test asks for it."""
    return build.sparse_engine() or pytest.skip("there is no compiler")


compiled = pytest.mark.usefixtures("engine")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")), reason="there is no onnx"
)


@st.composite
def convolutions(draw):
    """(node, image, residual): any small convolution that the engine is asked for."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    inputs, outputs = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    sides = []  # (kernel, stride, padding, dilation, size) down and across, alike more often than not
    for room in (20, 45):
        kernel, stride = draw(st.sampled_from([1, 2, 3, 5, 7])), draw(st.integers(1, 3))
        dilation = draw(st.sampled_from([1, 2, 4, 24]))
        padding = draw(st.sampled_from([0, kernel // 2 * dilation]))
        if sides and draw(st.booleans()):
            kernel, stride, padding, dilation, _ = sides[0]
        reach = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
        sides.append((kernel, stride, padding, dilation, draw(st.integers(reach, reach + room))))
    kernel, stride, padding, dilation, (height, width) = zip(*sides, strict=True)
    weight = torch.randn((outputs, inputs, *kernel), generator=generator)
    weight *= torch.rand(weight.shape, generator=generator) < draw(st.sampled_from([0, 0.01, 0.1, 0.5, 1]))
    bias = torch.randn(outputs, generator=generator).double()
    geometry = stride, padding, dilation
    node = Conv("n", "image", weight, bias, *geometry, relu=draw(st.booleans()))
    image = torch.randn((draw(st.integers(1, 3)), inputs, height, width), generator=generator)
    shape = functional.conv2d(image, weight, None, *geometry).shape
    residual = torch.randn(shape, generator=generator) if draw(st.booleans()) else None
    return node, image, residual


@compiled
@given(case=convolutions(), tiling=st.sampled_from([*TILINGS, (2, 1), (8, 3)]))
@settings(max_examples=150, deadline=None)
def test_the_sparse_convolution_is_the_dense_one(case, tiling):
    node, image, residual = case
    expected = Layer(node)(image, residual)
    torch.testing.assert_close(SparseLayer(node, tiling)(image, residual), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not bf16_runs(), reason="this processor has no AVX512-BF16")
@given(case=convolutions(), tiling=st.sampled_from([*TILINGS16, (2, 1), (8, 3)]))
@settings(max_examples=150, deadline=None)
def test_in_16_bits_it_is_that_of_rounded_pixels_and_weights(case, tiling):
    node, image, residual = case
    rounded = replace(node, weight=node.weight.bfloat16().float())
    expected = Layer(rounded)(image.bfloat16().float(), residual)
    found = SparseLayer(node, tiling, bf16=True)(image, residual)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@given(case=convolutions())
@settings(max_examples=30, deadline=None)
def test_the_packed_dense_convolution_is_the_plain_one(case):
    node, image, residual = case
    with torch.inference_mode():
        found, expected = DenseLayer(node)(image, residual), Layer(node)(image, residual)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [(1, 1), (3, 4), (16, 16)])
@pytest.mark.parametrize("padding", [(9, 40), (1, 2)])
def test_a_side_of_one_tap_has_no_dilation(channels, padding):
    """oneDNN would read outside the image: a crash."""
    weight, image = torch.randn(*channels[::-1], 3, 1), torch.randn(2, channels[0], 22, 1)
    node = Conv("n", "image", weight, torch.zeros(channels[1]).double(), (1, 3), padding, (1, 2))
    assert node.dilation == (1, 1)
    expected = functional.conv2d(image, weight, None, (1, 3), padding, (1, 2))
    with torch.inference_mode():
        torch.testing.assert_close(DenseLayer(node)(image), expected)
    assert replace(node, weight=weight.mT.contiguous(), dilation=(5, 2)).dilation == (1, 2)


@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 3, 5), (0, 5)])
@compiled
def test_the_sparse_linear_layer_is_the_dense_one(shape):
    weight, bias = torch.randn(4, 5, 1, 1), torch.randn(4)
    weight[torch.rand(4, 5) < 0.6] = 0.0
    rows = torch.tensor([2, -1, 0, 0])
    node = Conv("n", "x", weight, bias.double(), linear=True, relu=True, rows=rows, residual="r")
    x, residual = torch.randn(shape), torch.randn(*shape[:-1], 3)
    added = torch.cat([residual, torch.zeros(*shape[:-1], 1)], dim=-1)[..., [2, 3, 0, 0]]
    expected = torch.relu(functional.linear(x, weight[:, :, 0, 0], bias) + added)
    for make in (Layer, DenseLayer, SparseLayer):
        torch.testing.assert_close(make(node)(x, residual), expected)


@pytest.mark.parametrize("shapes", [((2, 3, 9, 9), (2, 4, 1, 1)), ((2, 3, 1, 1), (2, 4, 5, 5))])
@compiled
def test_a_residual_of_another_size_is_broadcast(shapes):
    node = Conv("n", "x", torch.randn(4, 3, 1, 1), torch.randn(4).double(), relu=True, residual="r")
    x, residual = map(torch.randn, shapes)
    expected = torch.relu(functional.conv2d(x, node.weight, node.bias.float()) + residual)
    with torch.inference_mode():
        for make in (Layer, DenseLayer, SparseLayer):
            torch.testing.assert_close(make(node)(x, residual), expected)


@compiled
def test_a_layer_takes_one_size_after_another():
    node = Conv("n", "image", torch.randn(5, 2, 3, 3), torch.zeros(5).double(), padding=6, dilation=6)
    layer = SparseLayer(node)
    for size in ((9, 20), (4, 4), (9, 20)):
        image = torch.randn(2, 2, *size)
        torch.testing.assert_close(layer(image), Layer(node)(image), rtol=1e-4, atol=1e-4)


@compiled
def test_a_wrong_image_is_refused():
    layer = SparseLayer(Conv("n", "image", torch.randn(5, 2, 3, 3), torch.zeros(5).double()))
    with pytest.raises(RuntimeError, match="takes float32"):
        layer(torch.randn(1, 3, 9, 9))
    with pytest.raises(RuntimeError, match="smaller than the kernel"):
        layer(torch.randn(1, 2, 2, 9))


@compiled
def test_the_number_of_threads_changes_nothing():
    node = Conv("n", "image", torch.randn(40, 6, 3, 3), torch.randn(40).double(), padding=2, dilation=2)
    layer, image, before = SparseLayer(node), torch.randn(3, 6, 25, 31), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(layer(image))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_packed_dense_convolution_takes_one_size_after_another():
    node = Conv("n", "image", torch.randn(5, 2, 3, 3), torch.zeros(5).double(), padding=1)
    for bf16, off in ((False, 1e-5), (True, 0.1)):
        layer = DenseLayer(node, bf16)
        for size in ((9, 20), (4, 4), (9, 20)):
            image = torch.randn(2, 2, *size)
            with torch.inference_mode():
                torch.testing.assert_close(layer(image), Layer(node)(image), rtol=0, atol=off)


@pytest.mark.parametrize("bf16", [False, True])
def test_a_processor_that_cannot_pack_computes_all_the_same(bf16, monkeypatch):
    monkeypatch.setattr(layers, "packs", lambda bf16: False)
    node = Conv("n", "image", torch.randn(5, 2, 3, 3), torch.zeros(5).double(), padding=1)
    layer, image = DenseLayer(node, bf16), torch.randn(2, 2, 9, 20)
    with torch.inference_mode():
        torch.testing.assert_close(layer(image), Layer(node)(image), rtol=0, atol=0.1 if bf16 else 1e-5)
    assert not layer.packed


@pytest.mark.parametrize("engine", ["dense", "sparse", "onnx"])
def test_every_engine_gives_the_masked_networks_outputs(engine):
    if engine == "onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    network, mask = random_network(5, density=0.1)
    run = wrap(network, mask, engine)
    for seed, batch in ((1, 1), (2, 3)):
        image = random_image(seed, batch)
        with torch.no_grad():
            assert worst(run(image), network(image)) < 1e-5


def test_weights_outside_the_mask_count_as_pruned():
    network, mask = random_network(5, density=0.1)
    image = random_image(0)
    with torch.no_grad():
        expected = network(image)
        for name, value in network.named_parameters():
            if name in mask:
                value[~mask[name]] = 9.0
    assert worst(wrap(network, mask, "dense")(image), expected) < 1e-5


class Fading(torch.nn.Module):
    """Halves its image in place, then looks at it."""

    def __init__(self):
        super().__init__()
        self.look = torch.nn.Conv2d(2, 3, 3)

    def forward(self, image):
        image.mul_(0.5)
        return self.look(image)


@pytest.mark.parametrize("engine", ["dense", "sparse", "sparse-bf16"])
def test_a_network_that_changes_its_image_is_tuned_and_compared_on_copies(engine):
    network, image = Fading().eval(), torch.randn(1, 2, 9, 9)
    given, before = image.clone(), image.clone()
    with torch.no_grad():
        expected = network(given)
    run = wrap(network, None, engine, example=(image,))
    assert torch.equal(image, before)
    assert worst_difference(run(image), expected) < (1e-2 if engine == "sparse-bf16" else 1e-5)
    assert torch.equal(image, given)
    if engine != "dense":  # tuned at the first call
        run, image = wrap(network, None, engine), before.clone()
        assert worst_difference(run(image), expected) < (1e-2 if engine == "sparse-bf16" else 1e-5)
        assert torch.equal(image, given)


@pytest.mark.parametrize("engine", ["dense", "sparse", "onnx"])
def test_an_engine_computes_in_32_bits_under_autocast_too(engine):
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network, image = torch.nn.Conv2d(2, 30, 3).eval(), torch.randn(1, 2, 9, 9)
    with torch.no_grad():
        expected = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = wrap(network, None, engine, example=(image,))(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 3])
def test_an_onnx_model_of_a_grouped_first_convolution_takes_all_channels(groups):
    pytest.importorskip("onnxruntime")
    network, image = torch.nn.Conv2d(6, 6, 3, groups=groups).eval(), torch.randn(2, 6, 5, 7)
    run = wrap(network, None, "onnx", example=(image,))
    assert run.session.get_inputs()[0].shape == ["batch", 6, "height", "width"]
    with torch.no_grad():
        torch.testing.assert_close(run(image), network(image), rtol=1e-5, atol=1e-5)


ENGINES = ["dense", "sparse", pytest.param("onnx", marks=needs_onnx)]


def looking():
    """A network of images, one by one or in batches, with a sum."""

    class Looking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Conv2d(5, 5, 1)

        def forward(self, image):
            seen = self.first(image)
            return torch.relu(self.last(torch.sigmoid(seen)) + seen)

    return Looking().eval()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", ["double", "half", "requires_grad_", "__getitem__"])
def test_engines_take_images_of_any_type_a_gradient_and_single_ones(engine, change):
    network = looking()
    mask = {"first.weight": torch.rand(5, 3, 3, 3) < 0.5, "last.weight": torch.rand(5, 5, 1, 1) < 0.5}
    apply(network, mask)
    image = torch.randn(2, 3, 9, 8).half().float()
    given = getattr(image.clone(), change)(*([0] if change == "__getitem__" else []))
    with torch.no_grad():
        expected = network(image)[0] if change == "__getitem__" else network(image)
    for found in (wrap(network, mask, engine)(given), wrap(network, mask, engine, example=(given,))(given)):
        assert found.dtype == torch.float32 and not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [Layer, DenseLayer, SparseLayer])
@compiled
def test_a_layer_takes_a_single_image_as_a_batch_of_one(way):
    weight, bias, rows = torch.randn(3, 2, 3, 3), torch.randn(3).double(), torch.tensor([1, -1, 0])
    layer = way(Conv("n", "x", weight, bias, relu=True, residual="r", rows=rows))
    image, residual = torch.randn(2, 9, 7), torch.randn(2, 7, 5)
    with torch.no_grad():
        for added in (residual, residual[:, :1, :1]):
            assert torch.equal(layer(image, added), layer(image[None], added[None])[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_outputs_are_ordinary_tensors(engine):
    """Training reads them as targets, and they may be changed."""
    network, image = looking(), torch.randn(2, 3, 9, 8)
    target = wrap(network, None, engine)(image)
    functional.mse_loss(network(image * 2), target).backward()
    assert network.first.weight.grad.abs().sum() > 0
    assert torch.equal(target.clone().add_(1), target.add_(1))


@needs_onnx
def test_an_onnx_engine_says_which_argument_is_no_tensor():
    class Scaled(torch.nn.Conv2d):
        def forward(self, image, scale=1.0):
            return super().forward(image) * scale

    network, image = Scaled(3, 4, 1).eval(), torch.randn(1, 3, 5, 5)
    with pytest.raises(ValueError, match="engine 'onnx' takes tensors, and scale is a float: give a tensor"):
        wrap(network, None, "onnx", example=(image, 2.0))
    for engine in ("dense", "sparse"):
        found = wrap(network, None, engine, example=(image, 2.0))(image, 3.0)
        torch.testing.assert_close(found, network(image, 3.0).detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the network takes image, not 2 arguments"):
        wrap(network, None, "onnx")(image, image)


def test_an_unknown_engine_is_refused_with_the_choices():
    network, mask = random_network(0)
    with pytest.raises(ValueError, match="engine 'gpu' is not one of dense, sparse, sparse-bf16, onnx"):
        wrap(network, mask, "gpu")


def test_without_a_compiler_the_sparse_engine_is_dense_and_says_so_once(monkeypatch, tmp_path):
    network, mask = random_network(5, density=0.1)
    image = random_image(3)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(build, "installed", lambda: None)
    build.sparse_engine.cache_clear()
    try:
        with pytest.warns(UserWarning, match="no C\\+\\+ compiler 'no-such-compiler'") as said:
            found = wrap(network, mask, "sparse")(image)
            wrap(network, mask, "sparse")
        lines = [str(warning.message) for warning in said if "compiler" in str(warning.message)]
        reason = "no C++ compiler 'no-such-compiler'"
        assert lines == [f"the sparse engine cannot be built ({reason}): it runs dense convolutions"]
    finally:
        build.sparse_engine.cache_clear()
    with torch.no_grad():
        assert worst(found, network(image)) < 1e-5


@compiled
def test_the_error_that_is_allowed_is_kept_and_0_allows_none():
    network, mask = random_network(5, density=0.1)
    image = random_image(1, 1)
    with torch.no_grad():
        expected = network(image)
    exact = wrap(network, mask, "sparse")
    assert worst(exact(image), expected) < 1e-5
    assert not any("bf16" in way for way in exact.layers().values())
    for error in (1e-6, 1e-2):
        found = wrap(network, mask, "sparse", error=error)(image)
        assert max(differences(found, exact(image))) <= error + 1e-5


@pytest.mark.parametrize(
    ("engine", "error", "says"),
    [
        ("sparse", 1, "below 1"),
        ("dense", 0.1, "engine 'dense' computes in 32 bits: error=0.1 is for 'sparse'"),
        ("sparse-bf16", 0.1, "engine 'sparse-bf16' is error=0.01 already: error=0.1 is for 'sparse'"),
    ],
)
def test_an_error_that_makes_no_sense_is_refused(engine, error, says):
    network, mask = random_network(5, density=0.1)
    with pytest.raises(ValueError, match=says):
        wrap(network, mask, engine, error=error)


def test_layers_that_spare_most_for_their_error_run_in_16_bits():
    """Two layers on a path: either alone is within the limit, both are not; the cheaper one is taken."""
    one, two = (
        Conv(name, source, torch.ones(1, 1, 1, 1), torch.zeros(1).double())
        for name, source in (("a", "image"), ("b", "a"))
    )
    graph = Graph([one, two], {"y": "b"})

    def layer(shift):
        class Shifted(torch.nn.Module):
            def forward(self, image, residual=None):
                return image + shift * (torch.arange(image.numel()).reshape(image.shape) == 0)

        return Shifted()

    choices = {
        "a": Choice(Timed(layer(0.0), 3.0), Timed(layer(0.06), 1.0), 0.06, 9.0),
        "b": Choice(Timed(layer(0.0), 3.0), Timed(layer(0.06), 1.5), 0.06, 9.0),
    }
    image = torch.linspace(0, 1, 9).reshape(1, 1, 3, 3)
    assert within(graph, choices, 0.5, (image,)) == {"a", "b"}
    assert within(graph, choices, 0.1, (image,)) == {"a"}
    assert within(graph, choices, 0.01, (image,)) == set()


def test_an_output_that_is_no_number_is_the_worst_wherever_it_stands():
    right, wrong = torch.tensor([0.0, 2.0]), torch.tensor([0.0, math.nan])
    assert worst_difference([right + 1, {"a": right}], [right, {"a": right}]) == 0.5
    for found in ([wrong, right], [right, wrong]):
        assert math.isnan(worst_difference(found, [right, right]))
    assert worst_difference([], []) == 0


def test_an_output_without_a_range_is_measured_by_its_size():
    flat = torch.tensor([[-4.0]])
    assert worst_difference(flat * 1.5, flat) == 0.5
    assert worst_difference(flat + 1, flat) == 0.25
    rounded = torch.tensor([1.0, 1 + 2**-23])  # a range, but one of rounding
    assert worst_difference(rounded.flip(0), rounded) < 1e-6
    assert worst_difference(torch.zeros(2), torch.zeros(2)) == 0
    assert worst_difference(torch.zeros(1, 2), torch.zeros(2)) == math.inf
    with pytest.raises(ValueError, match="there are 1 outputs instead of 2"):
        worst_difference([flat], [flat, flat])


def test_what_is_no_number_in_both_counts_as_equal():
    expected = torch.tensor([0.0, 2.0, -math.inf, math.nan])
    assert worst_difference(expected.clone(), expected) == 0
    assert worst_difference(expected + torch.tensor([1.0, 0, 0, 0]), expected) == 0.5
    for wrong in ([0.0, 2.0, math.inf, math.nan], [0.0, 2.0, -math.inf, 0.0], [0.0, math.nan, -math.inf, 0]):
        assert math.isnan(worst_difference(torch.tensor(wrong), expected))
    assert worst_difference(expected[2:], expected[2:]) == 0


class Masked(torch.nn.Module):
    """Logits of which one class is ruled out."""

    def __init__(self):
        super().__init__()
        self.look = torch.nn.Conv2d(3, 4, 1)
        self.register_buffer("out", torch.tensor([0.0, 0.0, 0.0, -math.inf]).view(1, 4, 1, 1))

    def forward(self, image):
        return self.look(image) + self.out


def scoring():
    """One number for an image."""
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten()
    return torch.nn.Sequential(*layers, torch.nn.Linear(32, 1))


@pytest.mark.parametrize("make", [scoring, Masked])
@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_an_example_refuses_no_network_for_its_kind_of_output(make, engine):
    network, image = make().eval(), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert worst_difference(wrap(network, None, engine, (image,))(image), network(image)) < 1e-5


def test_layers_of_a_network_of_one_number_may_run_in_16_bits():
    graph = Graph([Conv("a", "image", torch.ones(1, 1, 1, 1), torch.ones(1).double())], {"y": "a"})
    exact = Layer(graph.convolutions()[0])
    choices = {"a": Choice(Timed(exact, 2.0), Timed(DenseLayer(graph.convolutions()[0], True), 1.0), 1e-3, 9)}
    assert within(graph, choices, 0.1, (torch.full((1, 1, 1, 1), 1.01),)) == {"a"}
