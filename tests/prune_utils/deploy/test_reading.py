"""Any module's program as a graph: what is fused, what stays whole, the same outputs from every engine."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from prune_utils.deploy.engines import wrap
from prune_utils.deploy.export import export
from prune_utils.deploy.graph import Conv
from prune_utils.deploy.layers import DenseLayer, SparseLayer
from prune_utils.deploy.plain import PlainNet
from prune_utils.deploy.reading import masked_copy, read_network
from prune_utils.deploy.simplify import simplify
from tests.prune_utils.deploy.networks import CHANNELS, random_image, random_network
from tests.prune_utils.deploy.test_engine import compiled, engine  # noqa: F401 (a fixture)


def pruned(network, density=0.2, seed=0):
    """(network with random norms in evaluation mode, a random mask of its weights)."""
    generator = torch.Generator().manual_seed(seed)
    mask = {}
    with torch.no_grad():
        for name, value in network.named_buffers():
            if name.endswith("running_mean"):
                value.normal_(generator=generator)
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
        for name, value in network.named_parameters():
            value.normal_(
                0, 0.5 if value.dim() < 2 else (2 / (value[0].numel() * density)) ** 0.5, generator=generator
            )
            if value.dim() > 1 and "parametrizations" not in name:  # a row of zeros has no norm
                mask[name] = torch.rand(value.shape, generator=generator) < density
    return network.eval(), mask


def off(found, expected):
    """Largest difference as a share of the output's range."""
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    return max(float((ours - value).abs().max() / (value.max() - value.min())) for ours, value in pairs)


def check(network, *inputs, bound=1e-5, density=0.2):
    """The graph, simplified or not, dense or sparse, gives the masked network's outputs."""
    network, mask = pruned(network, density)
    with torch.no_grad():
        expected = masked_copy(network, mask)(*inputs)
    graph = read_network(network, mask=mask)
    small = simplify(graph)
    with torch.inference_mode():
        assert off(PlainNet(graph)(*inputs), expected) < bound
        assert off(PlainNet(small)(*inputs), expected) < bound
        assert off(PlainNet(small, DenseLayer)(*inputs), expected) < bound

        def sparse(node):
            return SparseLayer(node) if node.groups == 1 else DenseLayer(node)

        assert off(PlainNet(small, sparse)(*inputs), expected) < bound
    return graph


def plan(graph):
    """How often what is run: (kernel, stride, relu, residual) of convolutions, names of other calls."""
    return Counter(
        (node.weight.shape[2], node.stride[0], node.relu, node.residual is not None)
        if isinstance(node, Conv)
        else type(node.op).__name__
        for node in graph.nodes
    )


def block_plan(pairs, shortcuts):
    """Of a ResNet of basic blocks: every first convolution is rectified, every second adds its shortcut."""
    return Counter(
        {
            (7, 2, True, False): 1,
            "MaxPool2d": 1,
            (3, 1, True, False): pairs - 1,
            (3, 2, True, False): 1,
            (3, 1, True, True): pairs,
            (1, 1, False, False): shortcuts - 1,
            (1, 2, False, False): 1,
        }
    )


def test_the_multitask_network_is_convolutions_and_one_pooling():
    """Every norm, sum, dropout and rectifier is part of a convolution, branches are added in a row."""
    graph = read_network(random_network(1)[0])
    head = Counter(
        {(3, 1, True, False): 4, (1, 1, True, False): 4, (1, 1, False, False): 1, (1, 1, False, True): 3}
    )
    expected = block_plan(pairs=8, shortcuts=3)
    for _ in CHANNELS:
        expected += head
    assert plan(graph) == expected
    assert plan(simplify(graph)) == expected
    assert graph.left_dense() == {}
    assert graph.inputs == ("image",) and list(graph.outputs) == list(CHANNELS)


def test_names_are_those_of_the_layers():
    graph = read_network(random_network(1)[0])
    assert {node.parameter for node in graph.convolutions()} == {
        f"{node.name}.weight" for node in graph.convolutions()
    }


class Unet(nn.Module):
    """Skips joined after transposed convolutions; every kind of thing between convolutions."""

    def __init__(self, width=4):
        super().__init__()

        def block(inputs, outputs, act):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1),
                nn.BatchNorm2d(outputs),
                act,
                nn.Conv2d(outputs, outputs, (1, 3), padding="same", bias=False),
                nn.BatchNorm2d(outputs),
                act,
            )

        self.down1, self.down2 = block(3, width, nn.ReLU(inplace=True)), block(width, 2 * width, nn.SiLU())
        self.deep = block(2 * width, 4 * width, nn.ReLU6(inplace=True))
        self.up2, self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), nn.Upsample(scale_factor=2)
        self.join2, self.join1 = (
            block(4 * width, 2 * width, nn.ReLU()),
            block(3 * width, width, nn.LeakyReLU()),
        )
        self.heads = nn.ModuleDict({name: nn.Conv2d(width, 2, 1) for name in "ab"})

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        deep = self.deep(functional.avg_pool2d(two, 2))
        two = self.join2(torch.cat([self.up2(deep), two], dim=1))
        one = self.join1(torch.cat((self.up1(two), one), 1))
        return {name: head(one) for name, head in self.heads.items()}


@compiled
@pytest.mark.parametrize("density", [0.03, 0.3, 1.0])
def test_a_network_with_skips_and_transposed_convolutions(density):
    graph = check(Unet(), torch.randn(2, 3, 16, 24), density=density)
    assert graph.left_dense() == {"up2": "ConvTranspose2d"}
    assert sum(isinstance(node, Conv) for node in graph.nodes) == 12


def test_channels_die_through_joins_and_poolings():
    """Only what an output reads is left: the pruned half of a join and all that makes it."""
    net = Unet().eval()
    mask = {name: torch.ones_like(w, dtype=torch.bool) for name, w in net.named_parameters() if w.dim() == 4}
    mask["join1.0.weight"][:, 8:] = False  # nothing of the first skip
    whole, small = (form(read_network(net, mask=mask)) for form in (lambda graph: graph, simplify))
    assert len(small.nodes) == len(whole.nodes)  # the first skip still feeds the way down
    mask["join1.0.weight"][:] = False
    mask["join1.0.weight"][:, 8] = True  # one channel of the skip alone
    assert {node.name for node in simplify(read_network(net, mask=mask)).convolutions()} == {
        "down1.0",
        "down1.3",
        "join1.0",
        "join1.3",
        "heads.a",
        "heads.b",
    }


class Mlp(nn.Module):
    """A trunk and two heads of linear layers."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 32))
        self.a, self.b = nn.Linear(32, 2), nn.Linear(32, 3)

    def forward(self, x):
        z = self.trunk(x)
        return {"a": self.a(z), "b": self.b(z)}


@pytest.mark.parametrize("kind", ["dense", "sparse", "onnx"])
def test_a_network_of_linear_layers_runs_in_every_engine(kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    network, mask = pruned(Mlp())
    run = wrap(network, mask, kind)
    for rows in (4, 7):
        x = torch.randn(rows, 16)
        with torch.no_grad():
            expected = masked_copy(network, mask)(x)
        found = run(x)
        assert list(found) == ["a", "b"]
        assert off(found, expected) < 1e-5
    assert run.left_dense == {}


class Odd(nn.Module):
    """Several inputs, nested results, code that decides by values, groups, changes in place."""

    def __init__(self):
        super().__init__()
        self.conv, self.pair = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.choice, self.blank = Choice(), Blank()
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.same = nn.Conv2d(6, 6, 1)

    def forward(self, image, scale, mask=None):
        x = self.conv(image)
        x += self.same(functional.relu(x)) * scale
        x = self.choice(self.pair(x).relu_())
        if mask is not None:
            x = x * mask
        return {"map": (x, [x.flatten(1)]), "vector": self.last(self.blank(x.mean((2, 3))))}


class Blank(nn.Module):
    def forward(self, x):
        x = x.clone()
        x[:, 0] = 0
        return x


class Choice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.conv(x) if float(x.sum()) > 0 else x


@compiled
def test_what_is_not_known_runs_as_it_is():
    graph = check(Odd(), torch.randn(2, 3, 9, 12), torch.tensor(0.5))
    assert graph.inputs == ("image", "scale")
    assert list(graph.outputs) == ["map.0", "map.1.0", "vector"]
    assert graph.left_dense() == {"pair": "convolution in 2 groups", "choice": "Choice"}
    assert {"same", "last"} <= {node.name for node in graph.convolutions()}


def same_outputs(network, *inputs):
    """The graph, simplified or not, gives the network's own outputs for fresh copies of the inputs."""
    network = pruned(network, density=1.0)[0]
    with torch.no_grad():
        expected = network(*(value.clone() for value in inputs))
    graph = read_network(network)
    for read in (graph, simplify(graph)):
        with torch.inference_mode():
            assert off(PlainNet(read)(*(value.clone() for value in inputs)), expected) < 1e-5
    return graph


class Program(nn.Module):
    """Any program over a few layers of six channels."""

    def __init__(self, program):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
        self.norm, self.gate = nn.BatchNorm2d(6), nn.Conv2d(6, 1, 1)
        self.program = program

    def forward(self, x):
        return self.program(self, x)


def after_a_norm(net, x):
    y = net.one(x)
    x.mul_(0.1)
    return functional.relu(net.norm(y))


def after_a_rectifier(net, x):
    y = net.one(x)
    x.mul_(0.1)
    return functional.relu(y)


def after_a_sum(net, x):
    y, z = net.one(x), net.two(x)
    x.mul_(0.1)
    return (y + z) * x


def after_all_changes(net, x):
    x.mul_(0.1)
    return functional.relu(net.one(x) + net.two(x))


def sum_under_another_name(net, x):
    x = net.one(x)
    skip = x
    x += net.two(x)
    return net.three(x) + skip


def product_under_another_name(net, x):
    x = functional.relu(net.one(x))
    skip = x
    x *= net.gate(x)
    x -= 1
    x /= 2
    return net.three(x) + skip


def inputs_under_another_name(net, x):
    skip = x
    x += 1
    return net.three(x) + skip


def numbers_under_another_name(net, x):
    height = x.shape[2]
    first, size = height, x.size(3)
    last = size
    height += 1
    size *= 2
    return net.one(x) * first + net.two(x) * height + (last - size)


def view_under_another_name(net, x):
    x = net.one(x)
    y = x.permute(0, 2, 3, 1)
    y += 1
    return net.two(x)


def copy_of_a_view(net, x):
    x = net.one(x)
    y = x.permute(0, 2, 3, 1).contiguous()
    y += 1
    return net.two(x) + y.permute(0, 3, 1, 2)


PROGRAMS = (
    after_a_norm,
    after_a_rectifier,
    after_a_sum,
    after_all_changes,
    sum_under_another_name,
    product_under_another_name,
    inputs_under_another_name,
    numbers_under_another_name,
    view_under_another_name,
    copy_of_a_view,
)


@pytest.mark.parametrize("program", PROGRAMS)
def test_changes_in_place_are_seen_by_all_that_look_at_the_value(program):
    torch.manual_seed(0)
    same_outputs(Program(program), torch.randn(2, 6, 8, 9))


def test_a_change_in_place_keeps_no_sum_apart_that_comes_after_it():
    one, two = [read_network(Program(program).eval()) for program in (after_all_changes, after_a_sum)]
    assert sum(node.residual is not None for node in one.convolutions()) == 1
    assert all(node.residual is None for node in two.convolutions())


def residual_block(net, x):
    y = net.norm(net.two(functional.relu(net.one(x))))
    y += x
    return functional.relu(y)


def test_a_sum_in_place_is_part_of_a_convolution():
    def program(net, x):
        return residual_block(net, net.three(x))

    graph = same_outputs(Program(program), torch.randn(2, 6, 8, 9))
    assert plan(graph) == {(3, 1, False, False): 1, (3, 1, True, False): 1, (3, 1, True, True): 1}


def test_an_optional_argument_comes_with_an_example():
    network, mask = pruned(Odd())
    inputs = torch.randn(1, 3, 9, 12), torch.tensor(0.5), torch.rand(5, 6)
    with torch.no_grad():
        expected = masked_copy(network, mask)(*inputs)
    assert off(wrap(network, mask, "dense", inputs)(*inputs), expected) < 1e-5
    with pytest.raises(ValueError, match="takes image, scale, not 3 arguments"):
        wrap(network, mask, "dense")(*inputs)


def norm_of_torch(net, x):
    norm = net.norm
    scales, statistics = (norm.weight, norm.bias), (norm.running_mean, norm.running_var)
    return torch.batch_norm(net.one(x), *scales, *statistics, False, 0.1, 1e-3, True)


def norm_of_functional(net, x):
    norm = net.norm
    statistics = norm.running_mean, norm.running_var
    return functional.batch_norm(net.one(x), *statistics, weight=norm.weight, bias=norm.bias, eps=1e-3)


def norm_with_a_computed_scale(net, x):
    norm, scale = net.norm, net.two(x).mean((0, 2, 3))
    return functional.batch_norm(net.one(x), norm.running_mean, norm.running_var, scale, norm.bias)


def layers_by_their_argument_names(net, x):
    x = functional.conv2d(input=x, weight=net.one.weight, bias=net.one.bias, padding=1)
    return functional.relu(input=net.norm(input=net.two(input=x)))


@pytest.mark.parametrize(
    "program",
    [norm_of_torch, norm_of_functional, norm_with_a_computed_scale, layers_by_their_argument_names],
)
def test_functions_are_read_by_their_own_order_of_arguments(program):
    graph = same_outputs(Program(program), torch.randn(2, 6, 8, 9))
    assert all(isinstance(node, Conv) for node in graph.nodes) or program is norm_with_a_computed_scale


def test_a_weight_of_one_axis_is_no_layer():
    def program(net, x):
        return functional.linear(net.one(x), net.gate.weight.flatten())

    same_outputs(Program(program), torch.randn(2, 6, 8, 6))


def test_outputs_that_would_have_one_name_have_two():
    def program(net, x):
        y = net.one(x)
        return {"a": {"b": y}, "a.b": net.two(y), 0: net.three(y), "0": net.gate(y)}

    graph = same_outputs(Program(program), torch.randn(2, 6, 8, 9))
    assert list(graph.outputs) == ["a.b", "a.b.1", "0", "0.1"]


class Deciding(nn.Module):
    """Its code asks for the kind of its input, which a trace answers otherwise than a run."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.conv(x) if isinstance(x, torch.Tensor) else self.conv(x) + 1


def test_a_trace_of_another_program_is_noticed():
    with pytest.raises(ValueError, match="output 0 of the traced network is off by"):
        wrap(Deciding(), None, "dense", (torch.rand(1, 1, 3, 3),))


def test_the_network_is_left_as_it_is():
    network = Unet().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, mask = pruned(Unet())
    read_network(network, mask=mask)
    assert network.training and all(value.requires_grad for value in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_masks_of_other_networks_are_refused():
    for mask, message in (
        ({"gone.weight": torch.ones(1)}, "names 'gone.weight', which is no tensor"),
        ({"a.weight": torch.ones(1, dtype=torch.bool)}, r"has shape \(1,\), the weight \(2, 32\)"),
        ({"a.weight": torch.ones(2, 32)}, "mask of 'a.weight' is torch.float32, not torch.bool"),
        ({"a.weight": torch.ones(2, 32).byte()}, "mask of 'a.weight' is torch.uint8, not torch.bool"),
    ):
        with pytest.raises(ValueError, match=message):
            read_network(Mlp(), mask=mask)


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_any_network_is_exported(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
        runtime = pytest.importorskip("onnxruntime")
    network, mask = pruned(Unet())
    path = tmp_path / {"onnx": "net.onnx", "torch": "net.pt2"}[form]
    done = export(network, mask, path, form, example=(torch.randn(2, 3, 16, 24),))
    assert done.left_dense == {"up2": "ConvTranspose2d"}
    for shape in ((2, 3, 16, 24), (3, 3, 24, 32)):
        image = torch.randn(shape)
        with torch.no_grad():
            expected = masked_copy(network, mask)(image)
        if form == "torch":
            found = torch.export.load(path).module()(image)
        else:
            session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            found = dict(
                zip("ab", map(torch.from_numpy, session.run(["a", "b"], {"x": image.numpy()})), strict=True)
            )
        assert off(found, expected) < 1e-5


class Pools(nn.Module):
    def __init__(self):
        super().__init__()
        self.fewer, self.same = nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1)

    def forward(self, image):
        return {"a": self.fewer(image), "b": self.same(image)}


def test_a_network_without_a_layer_that_has_weights_becomes_an_onnx_file():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    network, image = Pools(), torch.randn(3, 2, 8, 10)
    run = wrap(network, None, "onnx", example=(torch.randn(2, 2, 6, 6),))
    assert off(run(image), network(image)) == 0


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_an_example_of_one_image_leaves_the_batch_free(form, tmp_path):
    if form == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
    network, mask = pruned(Unet())
    image = torch.randn(1, 3, 16, 24)
    if form == "torch":
        export(network, mask, tmp_path / "net.pt2", form, example=(image,))
        run = torch.export.load(tmp_path / "net.pt2").module()
    else:
        run = wrap(network, mask, "onnx", example=(image,))
    for batch in (1, 2, 3):
        image = torch.randn(batch, 3, 16, 24)
        with torch.no_grad():
            assert off(run(image), masked_copy(network, mask)(image)) < 1e-5


class Single(nn.Module):
    """Takes one image at a time."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, image):
        return self.conv(image).expand(1, 6, -1, -1)


class OneByOne(nn.Module):
    """Takes any number of images, each in a step of the exported program."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, image):
        return torch.stack([self.conv(image[place]) for place in range(image.shape[0])])


@pytest.mark.parametrize("make", [Single, OneByOne])
def test_a_batch_that_stays_fixed_is_that_of_the_example_and_said(make, tmp_path):
    network = make().eval()
    with pytest.warns(UserWarning, match="takes argument 1 with a first axis of 1 alone"):
        export(network, None, tmp_path / "net.pt2", "torch", example=(torch.randn(1, 3, 9, 9),))
    image = torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        assert off(torch.export.load(tmp_path / "net.pt2").module()(image), network(image)) < 1e-5


TORCHVISION = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "densenet121": lambda: torchvision.models.densenet121(),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(),
    "fcn_resnet50": lambda: torchvision.models.segmentation.fcn_resnet50(weights_backbone=None),
    "deeplabv3": lambda: torchvision.models.segmentation.deeplabv3_resnet50(weights_backbone=None),
    "deeplabv3_mobilenet": lambda: torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(
        weights_backbone=None
    ),
}


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("name", TORCHVISION)
def test_public_networks_give_their_own_outputs(name):
    torch.manual_seed(0)
    graph = check(TORCHVISION[name](), random_image(0, 2, 64, 96), density=0.1)
    assert all("groups" in what for what in graph.left_dense().values())


@compiled
def test_the_documents_own_network_runs(tmp_path, monkeypatch, capsys):
    text = (Path(__file__).resolve().parents[3] / "docs" / "deploy.md").read_text()
    snippet = text.split("## Your own network\n\n```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(snippet, {"__name__": "snippet"})
    assert capsys.readouterr().out == "{'up': 'ConvTranspose2d'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.pt2", "net.safetensors"]
