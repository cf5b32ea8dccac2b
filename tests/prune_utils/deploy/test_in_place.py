"""Values under several names, code that changes what it is given, hooks: steps see what the network sees."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional

from prune_utils.deploy.layers import DenseLayer
from prune_utils.deploy.plain import PlainNet
from prune_utils.deploy.reading import read_network
from prune_utils.deploy.simplify import simplify
from tests.prune_utils.deploy.test_reading import Program, off, plan, pruned

IMAGE = torch.randn(2, 6, 8, 9, generator=torch.Generator().manual_seed(0))


def same(network, density=1.0):
    """The graph, simplified or not, gives the network's own outputs from every kind of dense layer."""
    network, mask = pruned(network, density)
    with torch.no_grad():
        for name, kept in mask.items():
            network.get_parameter(name).mul_(kept)
        expected = network(IMAGE.clone())
    graph = read_network(network)
    with torch.inference_mode():
        for net in (PlainNet(graph), PlainNet(simplify(graph)), PlainNet(simplify(graph), DenseLayer)):
            assert off(net(IMAGE.clone()), expected) < 1e-5
    return graph


OTHER_NAMES = {
    "float": lambda y: y.float(),
    "to": lambda y: y.to(torch.float32),
    "type": lambda y: y.type(torch.float32),
    "type_as": lambda y: y.type_as(y),
    "cpu": lambda y: y.cpu(),
    "view": lambda y: y.view(2, -1),
    "ravel": lambda y: y.ravel(),
    "flatten": lambda y: y.flatten(1),
    "view of a view": lambda y: y.flatten(1)[:, :40],
    "data": lambda y: y.data,
    "mT": lambda y: y.mT,
    "mT of data": lambda y: y.data.mT,
    "plus": lambda y: +y,
    "tensor_split": lambda y: y.tensor_split(2, 1)[0],
    "split_with_sizes": lambda y: y.split_with_sizes([2, 4], 1)[0],
    "moveaxis": lambda y: y.moveaxis(1, -1),
    "swapdims": lambda y: torch.swapdims(y, 1, 2),
    "diagonal": lambda y: y.diagonal(dim1=2, dim2=3),
    "unfold": lambda y: y.unfold(2, 2, 2),
    "atleast_3d": lambda y: torch.atleast_3d(y),
    "broadcast_to": lambda y: y.broadcast_to(2, 6, 8, 9),
    "broadcast_tensors": lambda y: torch.broadcast_tensors(y, y[:, :1])[0],
    "einsum": lambda y: torch.einsum("bchw->bhwc", y),
    "real": lambda y: torch.real(y),
    "input by its name": lambda y: torch.flatten(input=y, start_dim=1),
}
CHANGES = {
    "add_": lambda z: z.add_(2),
    "relu_": lambda z: z.relu_(),
    "relu": lambda z: functional.relu(z, inplace=True),
    "relu, input by its name": lambda z: functional.relu(input=z, inplace=True),
    "threshold": lambda z: functional.threshold(z, 0.1, 3.0, True),
    "iadd": lambda z: operator.iadd(z, 2),
    "+=": lambda z: z.__iadd__(2),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_change_is_seen_under_every_name_of_a_value(name):
    for change in CHANGES.values():

        def program(net, x, change=change):
            y = net.one(x)
            z = OTHER_NAMES[name](y)
            change(z)
            return y * 2, z * 3

        same(Program(program))


def plus_nothing(net, x):
    y = net.one(x)
    z = y + 0
    z.relu_()
    return y * 2, z


def plus_nothing_of_the_old(net, x):
    y = net.one(x)
    z = 0.0 + y
    y.relu_()
    return y * 2, z


def channels_last(net, x):
    y = net.one(x)
    z = y.to(memory_format=torch.channels_last)
    z.relu_()
    return y * 2, z


def contiguous_channels_last(net, x):
    y = net.one(x)
    z = y.contiguous(memory_format=torch.channels_last)
    z.flatten(2).relu_()
    return y * 2, z


def total(net, x):
    sums, parts = 0, []
    for layer in (net.one, net.two, net.three):
        parts.append(layer(x))
        sums += parts[-1]
    return sums, parts


def out_of_a_sum(net, x):
    y, z = net.one(x), net.two(x)
    torch.add(y, z, out=y)
    return functional.relu(y), z


def out_of_a_product(net, x):
    y, z = net.one(x), net.two(x)
    return torch.mul(y, z, out=z) + net.three(y), z


@pytest.mark.parametrize(
    "program",
    [
        plus_nothing,
        plus_nothing_of_the_old,
        channels_last,
        contiguous_channels_last,
        total,
        out_of_a_sum,
        out_of_a_product,
    ],
)
def test_copies_stay_what_they_are_and_results_go_where_they_are_told(program):
    same(Program(program))


def test_sums_and_orders_in_memory_cost_nothing_where_nothing_is_changed():
    def program(net, x):
        x = x.contiguous(memory_format=torch.channels_last)
        y = net.three(x).to(memory_format=torch.channels_last)
        return functional.relu(sum([y, net.one(y), net.two(y)]))

    expected = {(3, 1, False, False): 1, (3, 1, False, True): 1, (3, 1, True, True): 1}
    assert plan(same(Program(program))) == expected


def test_a_dropout_in_place_makes_no_copy():
    def program(net, x):
        return functional.dropout(net.one(x).flatten(1), 0.5, False, True).relu()

    assert plan(same(Program(program))) == {(3, 1, False, False): 1, "Method": 1, "function": 1}


@pytest.mark.parametrize("number", [0, 0.0])
def test_plus_nothing_keeps_its_type(number):
    def program(net, x):
        y = net.one(x)
        return y.argmax(1) + number, (y > 0) + number

    net = Program(program).eval()
    found, expected = PlainNet(read_network(net))(IMAGE), net(IMAGE)
    assert [value.dtype for value in found] == [value.dtype for value in expected]


class Whole(nn.Module):
    """Cannot be traced, changes its input, and gives it back if `own` says so."""

    def __init__(self, own):
        super().__init__()
        self.conv, self.own = nn.Conv2d(6, 6, 1), own

    def forward(self, x):
        x.relu_()
        return x if self.own or float(x.sum()) > 1e9 else self.conv(x)


class Around(Program):
    def __init__(self, program, own=False):
        super().__init__(program)
        self.whole = Whole(own)


def before_a_convolution(net, x):
    y = net.one(x)
    z = net.two(y)
    return z + net.three(net.whole(y))


def called_for_what_it_changes(net, x):
    y = net.one(x)
    net.whole(y)
    return net.two(y)


def given_back(net, x):
    y = net.one(x)
    z = net.whole(y)
    z += 1
    return net.two(y), z


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("program", [before_a_convolution, called_for_what_it_changes, given_back])
def test_a_submodule_left_whole_may_change_what_it_is_given(program, own):
    same(Around(program, own))


def test_a_submodule_left_whole_keeps_no_other_sum_apart():
    def program(net, x):
        y = net.one(x)
        return net.whole(net.two(y) + net.three(y))

    assert plan(same(Around(program)))[3, 1, False, True] == 1


class Hooked(nn.Module):
    def __init__(self, between):
        super().__init__()
        self.one, self.between, self.two = nn.Conv2d(6, 4, 3), between, nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.two(self.between(self.one(x)))


@pytest.mark.parametrize("density", [0.1, 1.0])
@pytest.mark.parametrize(
    "between",
    [
        nn.ReLU,
        lambda: nn.ReLU(inplace=True),
        lambda: nn.MaxPool2d(2),
        nn.Sigmoid,
        nn.Identity,
        nn.BatchNorm2d,
    ],
)
def test_hooks_take_part(between, density):
    scales = torch.arange(1.0, 5.0).view(1, 4, 1, 1)
    for hook in ("register_forward_hook", "register_forward_pre_hook"):
        network = Hooked(between(4) if between is nn.BatchNorm2d else between())
        if hook == "register_forward_hook":
            network.between.register_forward_hook(lambda module, inputs, output: output * scales)
        else:
            network.between.register_forward_pre_hook(lambda module, inputs: (inputs[0] + scales,))
        same(network, density)
