from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from prune_utils.deploy.graph import IMAGE, Conv, Graph
from prune_utils.deploy.plain import PlainNet
from prune_utils.deploy.reading import read_network
from prune_utils.deploy.simplify import simplify
from tests.prune_utils.deploy.networks import CHANNELS, random_image, random_network, worst

SUBSETS = [tasks for size in (1, 2, 3) for tasks in combinations(CHANNELS, size)]


def outputs(network, image):
    with torch.no_grad():
        return network(image)


@pytest.mark.parametrize("branch_after", [None, "stages.1.0"])
@pytest.mark.parametrize("tasks", SUBSETS)
def test_every_subset_of_tasks_gives_the_outputs_of_the_whole_network(tasks, branch_after):
    network, _ = random_network(1, branch_after=branch_after)
    image = random_image(1)
    found = outputs(PlainNet(simplify(read_network(network, tasks))), image)
    assert tuple(found) == tasks
    assert worst(found, outputs(network, image)) < 1e-5


@given(
    seed=st.integers(0, 10_000),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0, [0.0, 0.05, 1.0], [0.02, 0.3]]),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
)
@settings(max_examples=25, deadline=None)
def test_simplifying_changes_no_output(seed, density, size):
    network, _ = random_network(seed, density)
    image = random_image(seed, 1, *size)
    found = outputs(PlainNet(simplify(read_network(network))).double(), image.double())
    assert worst(found, outputs(network.double(), image.double())) < 1e-5


def test_a_subset_is_smaller_than_the_whole():
    network, _ = random_network(0, density=0.05)
    whole, part = simplify(read_network(network)), simplify(read_network(network, ("sn",)))
    assert part.kept() < whole.kept() < read_network(network).kept()


def test_nothing_is_left_to_remove_after_one_pass():
    network, _ = random_network(3, density=0.04)
    once = simplify(read_network(network))
    twice = simplify(once)
    assert once.channels() == twice.channels()
    assert once.kept() == twice.kept()


def chain(*weights, padding=0, biases=None):
    """A graph of 3x3 or 1x1 convolutions in a row, rectified but for the last."""
    graph, source = Graph(), IMAGE
    for index, weight in enumerate(weights):
        bias = torch.zeros(len(weight)) if biases is None else biases[index]
        relu = index + 1 < len(weights)
        graph.nodes.append(Conv(f"n{index}", source, weight, bias.double(), padding=padding, relu=relu))
        source = f"n{index}"
    graph.outputs["out"] = source
    return graph


def test_a_dead_and_a_constant_channel_go_and_the_constant_moves_into_the_bias():
    first = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])[:, :, None, None]  # channel 1 reads nothing
    second = torch.tensor([[3.0, 5.0, 0.0]])[:, :, None, None]  # channel 2 is read by nothing
    biases = [torch.tensor([0.0, 7.0, 0.0]), torch.tensor([1.0])]
    small = simplify(chain(first, second, biases=biases))
    assert small.nodes[0].weight.flatten().tolist() == [1.0, 0.0]
    assert small.nodes[1].weight.flatten().tolist() == [3.0]
    assert small.nodes[1].bias.tolist() == [36.0]  # 1 + 5 * 7


def test_constants_under_padding_are_merged_into_one_channel():
    first = torch.zeros(4, 1, 3, 3)
    first[0, 0, 1, 1] = 1.0
    second = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    biases = [torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.zeros(2)]
    graph = chain(first, second, padding=1, biases=biases)
    small, image = simplify(graph), torch.rand(1, 1, 5, 4)
    assert small.nodes[0].channels == 2
    torch.testing.assert_close(PlainNet(small)(image)["out"], PlainNet(graph)(image)["out"])


def test_a_network_without_weights_still_has_maps_of_the_right_size():
    network, _ = random_network(0, density=0.0)
    image = random_image(0, 1, 19, 26)
    small = simplify(read_network(network))
    assert small.kept() == 0 and max(small.channels().values()) <= 3
    assert worst(outputs(PlainNet(small), image), outputs(network, image)) < 1e-6


class Sum(nn.Module):
    """relu(wide(x) + other(x)), looked at by one more convolution; `reduce` makes what other reads."""

    def __init__(self, reduce, other, stride=1):
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, stride, padding=1)
        self.reduce, self.other, self.last = reduce, other, nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.last(functional.relu(self.wide(x) + self.other(self.reduce(x))))


def small_of(network, *pruned):
    """(simplified, whole) graph of the network without the weights of these layers."""
    mask = {name: torch.zeros_like(network.get_parameter(name), dtype=torch.bool) for name in pruned}
    graph = read_network(network.eval(), mask=mask)
    return simplify(graph), graph


@pytest.mark.parametrize("pruned", [("wide.weight",), ("other.weight",), ("wide.weight", "other.weight")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_constant_value_of_a_sum_still_tells_its_size(pruned, kernel):
    reduce = nn.AdaptiveAvgPool2d(kernel)
    network, image = Sum(reduce, nn.Conv2d(3, 4, kernel)), torch.randn(1, 3, 8, 8)
    small, graph = small_of(network, *pruned)
    expected = outputs(PlainNet(graph), image)
    assert expected.shape == (1, 2, 8, 8)
    torch.testing.assert_close(outputs(PlainNet(small), image), expected)


@pytest.mark.parametrize("pruned", ["wide.weight", "other.weight"])
def test_of_a_broadcast_sum_of_linear_layers_too(pruned):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.other = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x):
            return self.wide(x) + self.other(x.mean(1, keepdim=True))

    network, rows = Tokens(), torch.randn(2, 5, 3)
    small, graph = small_of(network, pruned)
    found, expected = (outputs(PlainNet(of), rows) for of in (small, graph))
    assert found.shape == (2, 5, 4)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("stride", "other", "left"),
    [
        (1, nn.Conv2d(3, 4, 1), "wide"),
        (2, nn.Conv2d(3, 4, 1, 2), "wide"),
        (1, nn.Conv2d(3, 4, 3, padding=2, dilation=2), "other"),
    ],
)
def test_a_constant_value_of_the_same_size_goes(stride, other, left):
    network, image = Sum(nn.Identity(), other, stride), torch.randn(1, 3, 8, 9)
    small, graph = small_of(network, "other.weight" if left == "wide" else "wide.weight")
    assert [node.name for node in small.nodes] == [left, "last"]
    torch.testing.assert_close(outputs(PlainNet(small), image), outputs(PlainNet(graph), image))


def test_an_unknown_task_is_refused_with_the_choices():
    network, _ = random_network(0)
    with pytest.raises(ValueError, match="output 'dpeth' is not one of seg, sn, depth"):
        read_network(network, ("dpeth",))
    with pytest.raises(ValueError, match="no output"):
        read_network(network, ())


class Padded(nn.Module):
    """A convolution with constant channels, `between`, and one whose padding is no constant."""

    def __init__(self, between, inputs=4):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(inputs, 2, 3, padding=1)
        self.between = between
        with torch.no_grad():
            self.first.weight[:2] = 0
            self.first.bias[:2] = torch.tensor([-0.5, -0.7])

    def forward(self, x):
        return self.last(self.between(self.first(x)))


@pytest.mark.parametrize(
    ("between", "inputs"),
    [
        (nn.Hardtanh(-1.0, 0.0), 4),
        (lambda x: functional.hardtanh(x, -2.0, 0.0), 4),
        (nn.Sequential(nn.Hardtanh(-1.0, 0.0), nn.Sigmoid()), 4),
        (lambda x: torch.cat([functional.hardtanh(x, -2.0, 0.0), functional.silu(x)], 1), 8),
        (lambda x: torch.cat([functional.silu(x), functional.hardtanh(x, -2.0, 0.0)], 1), 8),
    ],
)
def test_a_constant_stays_where_the_1_that_would_carry_it_becomes_0(between, inputs):
    network, image = Padded(between, inputs).eval(), random_image(0, 1, 7, 8)
    small = simplify(read_network(network))
    torch.testing.assert_close(outputs(PlainNet(small), image), outputs(network, image))


class Rows(nn.Module):
    """Joins along the rows of an image without a batch."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.last(functional.silu(torch.cat([self.one(x), self.two(x)], dim=1)))


def test_a_join_along_rows_is_none_of_channels():
    network, image = Rows().eval(), random_image(0, 1, 7, 8)[0]
    with torch.no_grad():
        network.last.weight[:, 1:] = 0
    torch.testing.assert_close(
        outputs(PlainNet(simplify(read_network(network))), image), outputs(network, image)
    )
