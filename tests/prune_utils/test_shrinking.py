"""Channels removed from networks of all sorts, and what of them is left whole."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import prune_utils as pu
from prune_utils.channelwise import channel_grain, link
from prune_utils.choosing import choose
from prune_utils.copying import copied
from prune_utils.removing import check_removal
from prune_utils.resizing import all_shapes

pytest.importorskip("torch_pruning")
pytestmark = pytest.mark.filterwarnings("ignore")

LOSSES = {task: lambda out, _, task=task: out[task].square().mean() for task in ("a", "b")}
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def heads(width, layer=nn.Linear, *size):
    return nn.ModuleDict({task: layer(width, 3, *size) for task in LOSSES})


class Net(nn.Module):
    """Two convolutions and two heads."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.heads = heads(8)

    def forward(self, image):
        features = self.second(self.first(image).relu()).relu().mean((2, 3))
        return {task: head(features) for task, head in self.heads.items()}


def made(cls, *args, **more):
    torch.manual_seed(0)
    return cls(*args, **more)


def shrink(net, given=IMAGE, ratio=20, **more):
    """What was removed; the network computes what it did with these channels at 0."""
    masked = copied(net)
    removal = pu.remove_channels(net, LOSSES, [(given, None)], ratio, **more)
    assert check_removal(masked, removal, (given,)) <= 1e-4
    assert removal.after.params == sum(value.numel() for value in net.parameters())
    assert getattr(removal.after, removal.of) <= removal.asked
    masked.load_state_dict(removal.zeroed(masked.state_dict()))
    for task, value in net.eval()(given).items():
        torch.testing.assert_close(value, masked.eval()(given)[task], rtol=1e-4, atol=1e-5)
    return removal


# ---------------------------------------------------------------- weights that are computed or shared
class Chain(nn.Module):
    """Four convolutions, of which something is done to the last."""

    def __init__(self, change):
        super().__init__()
        convolutions = [nn.Conv2d(8 if place else 3, 8, 1) for place in range(4)]
        convolutions[3] = change(convolutions[3])
        self.trunk, self.heads = nn.ModuleList(convolutions), heads(8)

    def forward(self, image):
        for layer in self.trunk:
            image = layer(image).relu()
        return {task: head(image.mean((2, 3))) for task, head in self.heads.items()}


CHANGES = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm hook": nn.utils.weight_norm,
    "spectral_norm hook": spectral_norm,
    "prune": lambda layer: prune.identity(layer, "weight"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_reads_or_writes_a_computed_weight_is_left_whole(change):
    net = made(Chain, CHANGES[change])
    removal = shrink(net, ratio=10)
    reason = "a weight that is computed from another"
    assert {name: removal.whole[f"trunk.{name}"] for name in (2, 3)} == {2: reason, 3: reason}
    assert min(net.trunk[0].out_channels, net.trunk[1].out_channels) < 8 == net.trunk[2].out_channels


def test_a_contract_takes_a_network_with_a_computed_weight():
    net, scores = made(Chain, CHANGES["spectral_norm"]), dict.fromkeys(LOSSES, lambda model: 1.0)
    shared = dict(granularity="channel", smallest=60, resolution=10)
    limits = dict.fromkeys(LOSSES, 1.0)
    found = pu.contract(net, LOSSES, [(IMAGE, None)], scores, lambda *_: None, limits, **shared)
    assert sum(value.numel() for value in net.parameters()) <= found.best.trial.keep


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.left, self.right, self.heads = nn.Linear(6, 8), nn.Linear(6, 8), heads(8)
        self.right.weight = self.left.weight

    def forward(self, rows):
        rows = self.second(self.first(rows).relu()).relu()
        return {"a": self.heads["a"](self.left(rows)), "b": self.heads["b"](self.right(rows))}


def test_layers_that_share_a_weight_are_left_whole():
    net = made(Tied)
    removal = shrink(net, torch.randn(4, 6), ratio=5)
    assert net.left.weight is net.right.weight and net.left.weight.shape == (8, 6)
    assert removal.whole["left"] == removal.whole["second"] == "a weight that several layers share"


# ---------------------------------------------------------------- channels that do not all go the same way
class Sliced(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)
        self.heads = heads(6, nn.Conv2d, 1)

    def forward(self, image):
        features = self.stem(image).relu()
        halves = {"a": self.left(features[:, :4]), "b": self.right(features[:, 4:])}
        return {task: self.heads[task](half.relu()) for task, half in halves.items()}


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.each, self.grouped = nn.Conv2d(10, 10, 1, groups=10), nn.Conv2d(10, 10, 1, groups=2)
        self.heads = heads(10, nn.Conv2d, 1)

    def forward(self, image):
        features = self.each(torch.cat([self.left(image).relu(), self.right(image).relu()], 1))
        features = self.grouped(features.relu()).relu()
        return {task: head(features) for task, head in self.heads.items()}


class Shuffled(nn.Module):
    """A pixel shuffle, whose channels torch-pruning counts wrongly, into a concatenation."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.up = nn.Sequential(nn.Conv2d(12, 32, 1), nn.PixelShuffle(2))
        self.last, self.heads = nn.Conv2d(16, 8, 1), heads(8, nn.Conv2d, 1)

    def forward(self, image):
        first = self.first(image).relu()
        features = torch.cat([first, self.up(self.second(first).relu())], 1)
        return {task: head(self.last(features).relu()) for task, head in self.heads.items()}


@pytest.mark.parametrize("make", [Sliced, Joined])
def test_units_of_one_group_may_hold_different_tensors(make):
    net = made(make)
    if make is Sliced:  # the places of the slices stand in its code
        nn.init.constant_(net.stem.weight, 100.0)
    removal = shrink(net, ratio=30, method="magnitude")
    assert any(after < before for before, after in removal.widths.values())


def test_of_a_branch_that_reads_some_of_the_channels_one_stays():
    net = made(Sliced)
    with torch.no_grad():  # the first half is the worst by far
        net.stem.weight[:4] *= 1e-6
        net.left.weight *= 1e-6
    grain = channel_grain(link(net, (IMAGE,)), {}, "params", 1)
    scores = {"a": {name: value.detach().abs() for name, value in net.named_parameters() if value.dim() > 1}}
    mask = choose(scores, grain.budget(grain.least()), "unanimous", grain=grain)
    assert mask["left.weight"].any() and mask["right.weight"].any()


def test_channels_that_cannot_be_counted_are_left_whole():
    net = made(Shuffled)
    removal = shrink(net, ratio=10)
    assert removal.whole["up.0"] == "torch-pruning cannot follow them"
    assert net.second.out_channels < 12


class Indexed(Net):
    def forward(self, image):
        features = self.first(image)[:, [1, 0, 3, 2, 5, 4, 7, 6]]
        features = self.second(features.relu()).mean((2, 3))
        return {task: head(features) for task, head in self.heads.items()}


def test_an_error_of_the_network_without_its_channels_is_told_in_one_sentence():
    net = made(Indexed)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(
        ValueError, match=r"does not run without these channels \(index .*`protect` keeps layers"
    ):
        shrink(net, ratio=20)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert shrink(net, ratio=5, protect=["first"]).widths["second"][1] < 8


class Sequence(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first, self.second, self.memory = nn.Linear(6, 8), nn.Linear(8, 8), kind(8, 8, batch_first=True)
        self.heads = heads(8)

    def forward(self, rows):
        features = self.memory(self.second(self.first(rows).relu()))[0].mean(1)
        return {task: head(features) for task, head in self.heads.items()}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_a_recurrent_layer_reads_and_writes_is_left_whole(kind):
    net = made(Sequence, kind)
    removal = shrink(net, torch.randn(2, 5, 6), ratio=5)
    assert net.first.out_features < 8 == net.second.out_features and "second" in removal.whole


# ---------------------------------------------------------------- layers with several names
class Aliased(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.one, self.two, self.again = self.first, self.second, self.norm
        self.a, self.b = self.heads.values()

    def forward(self, image):
        features = self.two(self.again(self.one(image)).relu()).relu().mean((2, 3))
        return {"a": self.a(features), "b": self.b(features)}


def test_layers_with_two_names_lose_their_channels_under_both():
    net = made(Aliased)
    nn.init.normal_(net.norm.running_mean)
    before, state = copy.deepcopy(net), copy.deepcopy(net.state_dict())
    removal = shrink(net, ratio=60)
    assert net.first is net.one and net.one.out_channels < 8
    net.load_state_dict(removal.cut(state))
    zeroed = removal.zeroed(state)
    assert torch.equal(zeroed["first.weight"], zeroed["one.weight"])
    assert not torch.equal(zeroed["one.weight"], state["one.weight"])
    assert {name: all_shapes(net)[name] for name in removal.changed(net)} == removal.changed(net)
    other = pu.remove_channels(before, LOSSES, [(IMAGE, None)], 5, protect=["one"])
    assert before.first.out_channels == 8 and "first" in other.whole


# ---------------------------------------------------------------- what counts, and what is kept
class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.mix, self.heads = nn.MultiheadAttention(8, 2, batch_first=True), heads(8)

    def forward(self, rows):
        features = self.second(self.first(rows).relu())
        features = self.mix(features, features, features)[0]
        return {task: head(features) for task, head in self.heads.items()}


def test_multiply_adds_that_nobody_counts_are_not_left_out_in_silence():
    rows = torch.randn(1, 9, 8)
    with pytest.raises(ValueError, match="the multiply-adds of 'mix.in_proj_weight' are not known"):
        shrink(made(Attending), rows, 40, of="macs")
    for more in ({"of": "params", "ratio": 10}, {"of": "macs", "ratio": 10, "exclude": "mix.*"}):
        assert shrink(made(Attending), rows, **more).widths["first"][1] < 8


@pytest.mark.parametrize("second", [False, True])
def test_an_excluded_layer_keeps_its_channels(second):
    net = made(Aliased if second else Net)
    removal = shrink(net, ratio=20, exclude="one.*" if second else "first.*")
    assert removal.whole["first"] == "excluded" and net.first.out_channels == 8
    assert net.second.out_channels < 8


def test_a_bias_that_is_excluded_keeps_no_channel():
    net = made(Net)
    shrink(net, ratio=40, exclude="*.bias")
    assert net.first.out_channels < 8


def test_a_frozen_layer_keeps_its_channels_unless_it_is_asked_for():
    net = made(Net)
    net.first.requires_grad_(False)
    removal = shrink(net, ratio=20)
    assert removal.whole["first"] == "frozen" and net.first.out_channels == 8
    net = made(Net)
    net.first.requires_grad_(False)
    shrink(net, ratio=60, include="first.weight")
    assert net.first.out_channels < 8 and not net.first.weight.requires_grad


# ---------------------------------------------------------------- precision
class Picky(Net):
    def forward(self, image):
        if image.dtype != torch.float32:
            raise TypeError("give float32")
        return super().forward(image)


class Casting(Net):
    def forward(self, image):
        return super().forward(image.float())


class Half(Net):
    def forward(self, image):
        return super().forward(image.bfloat16())


def test_a_network_that_converts_its_input_is_checked_in_its_own_precision():
    for make in (Casting, Picky):
        assert shrink(made(make)).widths["second"][1] < 8
        assert pu.sparsify(made(make), LOSSES, [(IMAGE, None)], ratio=60, method="synflow").verify()["pruned"]
    net = made(Half).bfloat16()
    removal = pu.remove_channels(net, LOSSES, [(IMAGE.bfloat16(), None)], 20)
    assert check_removal(made(Half).bfloat16(), removal, (IMAGE,)) <= 0.05


class FlippedCasting(Net):
    def forward(self, image):
        features = self.second(self.first(image.float()).flip(1).relu()).relu().mean((2, 3))
        return {task: head(features) for task, head in self.heads.items()}


def test_what_hangs_together_otherwise_is_found_out_in_single_precision_too():
    with pytest.raises(ValueError, match="do not hang together as torch-pruning traced them"):
        shrink(made(FlippedCasting), protect=["second"])
