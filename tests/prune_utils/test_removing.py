import copy
import sys

import pytest
import torch
from torch import nn

from models.multitask import MultiTaskNet
from prune_utils import Masked, remove_channels
from prune_utils.channels import find_channels
from prune_utils.masks import dense_mask
from prune_utils.methods import METHODS
from prune_utils.multiply_adds import weight_uses
from prune_utils.plan import Settings, make_plan
from prune_utils.removing import check_removal, choose_channels
from prune_utils.resizing import all_shapes, hollow, resize

pytest.importorskip("torch_pruning")


def lively(net):
    """The network with norms that do something, in evaluation mode."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 1, 0.3)
            nn.init.normal_(layer.bias)
    return net.eval()


def shrunk(net, image, ratio=50, of="params", **more):
    """(smaller network, the masked one, removal) by magnitude."""
    uses = weight_uses(net, (image, None))
    scores = {"a": {name: weight.detach().abs() for name, weight in net.named_parameters() if name in uses}}
    removal = choose_channels(net, (image,), scores, uses, ratio, of, **more)
    smaller, masked = copy.deepcopy(net), copy.deepcopy(net)
    removal.apply(smaller)
    masked.load_state_dict(removal.zeroed(masked.state_dict()))
    return smaller, masked, removal


def outputs(net, image):
    with torch.no_grad():
        made = net(image)
    return list(made.values()) if isinstance(made, dict) else [made]


def assert_same(smaller, masked, image):
    for ours, theirs in zip(outputs(smaller, image), outputs(masked, image), strict=True):
        scale = float(theirs.max() - theirs.min())
        assert ours.shape == theirs.shape and scale > 0
        assert float((ours - theirs).abs().max()) <= 1e-5 * scale


# ---------------------------------------------------------------- by hand
class Pair(nn.Sequential):
    """1 -> 3 -> 2 channels, all of it 9 weights: the 3 in the middle may go."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False))


def tensor(*rows):
    return torch.tensor(rows, dtype=torch.float32)


# written, then read: A sums to 6 2 3, ranks 1 3 2; B to 1 7 1, ranks 2 1 3
A = {
    "0.weight": tensor([5], [1], [2])[..., None, None],
    "1.weight": tensor([1, 1, 1], [0, 0, 0])[..., None, None],
}
B = {
    "0.weight": tensor([0], [7], [1])[..., None, None],
    "1.weight": tensor([1, 0, 0], [0, 0, 0])[..., None, None],
}


@pytest.mark.parametrize(
    ("scores", "arbiter", "gone"),
    [
        ({"A": A}, "unanimous", 1),
        ({"B": B}, "unanimous", 2),
        ({"A": A, "B": B}, "unanimous", 2),  # best ranks 1 1 2: neither needs the last
        ({"A": A, "B": B}, "intersection", 2),  # worst ranks 2 3 3: of two equals the later goes
    ],
)
def test_a_channel_goes_if_no_task_needs_it(scores, arbiter, gone):
    removal = choose_channels(
        Pair(), (torch.zeros(1, 1, 2, 2),), scores, {"0.weight": 4, "1.weight": 4}, 30, arbiter=arbiter
    )
    assert removal.gone == {("0.weight", 0): (gone,), ("1.weight", 1): (gone,)}
    assert (removal.before.params, removal.after.params, removal.asked) == (9, 6, 6)
    assert (removal.before.macs, removal.after.macs) == (36, 24)
    assert removal.widths == {"0": (3, 2)} and removal.whole == {"1": "an output of the network"}


def test_a_private_channel_competes_with_the_trunks():
    net = MultiTaskNet({"seg": 4, "sn": 3}, "resnet18", 0.0625)
    found, whole = find_channels(net, (torch.zeros(1, 3, 257, 257),))
    assert whole == dict.fromkeys(("heads.seg.3.conv3", "heads.sn.3.conv3"), "an output of the network")
    residual = next(each for each in found if each.name == "backbone.stages.3.0.shortcut.0")
    holders = {name for name, _ in residual.units[0]}
    assert {f"heads.{task}.{rate}.conv1.weight" for task in ("seg", "sn") for rate in range(4)} <= holders
    assert {"backbone.stages.3.0.conv2.weight", "backbone.stages.3.1.conv1.weight"} <= holders
    assert all(len(unit) == len(residual.units[0]) for unit in residual.units)


# ---------------------------------------------------------------- removed equals masked, counted equals real
class Shared(nn.Module):
    """A grouped convolution, a concatenation, a transposed one, a product, a linear layer that reads all."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped, self.slope = nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.PReLU(12)
        self.gate, self.up = nn.Conv2d(12, 12, 1), nn.ConvTranspose2d(20, 6, 2, 2)
        self.last = nn.Linear(6 * 16 * 16, 5)

    def forward(self, image):
        first = torch.relu(self.norm(self.first(image)))
        wide = self.slope(self.grouped(first))
        both = torch.cat([wide * torch.sigmoid(self.gate(wide)), first], 1)
        return self.last(torch.relu(self.up(both)).flatten(1))


def network_named(name):
    """(network, side of its image); those of torchvision need that package."""
    if name == "ours":
        return MultiTaskNet({"seg": 4, "sn": 3}, "resnet18", 0.0625), 65
    if name == "of all kinds":
        return Shared(), 8
    models = pytest.importorskip("torchvision.models")
    from torchvision.models.densenet import DenseNet
    from torchvision.models.resnet import Bottleneck, ResNet

    make = {
        "residual": lambda: models.resnet18(num_classes=7),
        "grouped": lambda: ResNet(Bottleneck, [1, 1, 1, 1], 7, groups=4, width_per_group=16),
        "concatenation": lambda: DenseNet(8, (2, 2), 16, num_classes=7),
        "fire": lambda: models.squeezenet1_1(num_classes=7),
        "depthwise": lambda: models.mobilenet_v2(num_classes=7, width_mult=0.25),
        "gated": lambda: models.mobilenet_v3_small(num_classes=7, width_mult=0.5),
    }
    return make[name](), 65 if name == "fire" else 33


@pytest.mark.parametrize("name", ["ours", "of all kinds", "residual", "concatenation", "depthwise", "gated"])
@pytest.mark.parametrize(("of", "multiple"), [("params", 1), ("macs", 4)])
def test_the_smaller_network_computes_what_the_masked_one_does(name, of, multiple):
    made, side = network_named(name)
    net, image = lively(made), torch.randn(2, 3, side, side)
    smaller, masked, removal = shrunk(net, image, 40, of, multiple=multiple)
    assert_same(smaller, masked, image)
    assert check_removal(net, removal, (image,)) <= 1e-9
    uses = weight_uses(smaller, (image, None))
    sizes = {weight: value.numel() for weight, value in smaller.named_parameters()}
    assert removal.after.params == sum(sizes.values())
    assert removal.after.macs == sum(uses[weight] * sizes[weight] for weight in uses)
    assert getattr(removal.after, of) <= removal.asked
    for before, after in removal.widths.values():
        assert after == before or (after % multiple == 0 and after >= multiple)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "fire"])
def test_further_networks(name):
    test_the_smaller_network_computes_what_the_masked_one_does(name, "params", 1)


def test_one_channel_more_would_have_been_too_many():
    net, image = lively(MultiTaskNet({"seg": 4, "sn": 3}, "resnet18", 0.0625)), torch.randn(1, 3, 65, 65)
    *_, removal = shrunk(net, image, 30)
    shapes = {name: value.shape for name, value in net.named_parameters()}
    found, _ = find_channels(net, (image,))
    dearest = max(
        sum(
            shapes[name].numel() // shapes[name][axis] * len(of)
            for (name, axis), of in unit.items()
            if name in shapes
        )
        for channels in found
        for unit in channels.units
    )
    assert 0 <= removal.asked - removal.after.params < dearest


def test_a_smaller_network_trains_and_takes_a_mask():
    net, image = MultiTaskNet({"seg": 4}, "resnet18", 0.0625), torch.randn(2, 3, 33, 33)
    losses = {"seg": lambda out, true: out["seg"].square().mean()}
    remove_channels(net, losses, [(image, None)], 50, method="magnitude")
    masked = Masked(
        net, {name: kept & (torch.rand(kept.shape) > 0.5) for name, kept in dense_mask(net).items()}
    )
    optimizer = torch.optim.Adam(net.parameters())
    masked.attach(optimizer)
    net(image)["seg"].square().mean().backward()
    optimizer.step()
    assert masked.verify()["pruned"] > 0


def test_protected_layers_keep_their_channels():
    net = Pair()
    with pytest.raises(ValueError, match="no channel of this network can be removed: .*0: protected"):
        shrunk(net, torch.randn(1, 1, 2, 2), 30, protect=("0",))


def test_a_network_of_any_call_is_asked_by_task(tiny):
    net = nn.ModuleDict({"trunk": nn.Conv2d(1, 8, 3), "a": nn.Conv2d(8, 1, 1), "b": nn.Conv2d(8, 1, 1)})
    with torch.no_grad():
        net["a"].weight[:, 4:] = 0  # what a does not read b does
        net["b"].weight[:, :4] = 0
        net["a"].weight[:, 0], net["b"].weight[:, 7] = 1e-9, 1e-9  # and these hardly anybody
        net["trunk"].weight.fill_(1.0)

    def forward(network, batch):
        features = network["trunk"](batch["image"])
        return {task: network[task](features) for task in "ab"}

    losses = {task: lambda out, batch, task=task: out[task].square().mean() for task in "ab"}
    removal = remove_channels(net, losses, [{"image": torch.randn(2, 1, 5, 5)}], 20, forward=forward)
    assert removal.gone["trunk.weight", 0] == (0, 7)
    assert net["trunk"].out_channels == net["a"].in_channels == 6


# ---------------------------------------------------------------- what is refused
class Flipped(nn.Sequential):
    def forward(self, image):
        return self[1](self[0](image).flip(1))


def test_channels_that_hang_together_otherwise_are_found_out():
    net, image = Flipped(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)), torch.randn(1, 1, 3, 3)
    before = copy.deepcopy(net.state_dict())
    losses = {"a": lambda out, true: out.square().mean()}
    with pytest.raises(ValueError, match="they do not hang together as torch-pruning traced them"):
        remove_channels(net, losses, [(image, None)], 20)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_ratio_that_outputs_stand_against_is_refused():
    with pytest.raises(ValueError, match=r"ratio 90 of params cannot be met: 66.67 % go"):
        shrunk(Pair(), torch.randn(1, 1, 2, 2), 90)
    with pytest.raises(ValueError, match="channel multiple 0 is not a whole number of at least 1"):
        shrunk(Pair(), torch.randn(1, 1, 2, 2), 30, multiple=0)


def test_without_the_package_it_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ValueError, match="package torch_pruning: python3 -m pip install torch-pruning"):
        find_channels(Pair(), (torch.zeros(1, 1, 2, 2),))


@pytest.mark.parametrize(
    ("method", "asked", "said"),
    [
        ("rigl", {}, "method rigl prunes while it trains"),
        ("gmp", {}, "method gmp prunes while it trains"),
        ("snip", {"floor": 0.1}, "keeps 1 channels of every layer, and no floor 0.1"),
        ("snip", {"budget": "erk"}, "goes with budget 'global', not 'erk'"),
        ("snip", {"scope": "backbone"}, "goes with scope 'all', not 'backbone'"),
        ("imp", {"shuffle": True}, "shuffle permutes the channels of one choice, and retrain makes several"),
        ("disparse_pt", {"criterion": "group_magnitude"}, "'joint', not 'channel' and 'tasks'"),
        ("imp", {"criterion": "group_magnitude", "granularity": "weight"}, "not 'weight' and 'joint'"),
    ],
)
def test_what_does_not_go_with_channels_is_refused(method, asked, said):
    usual = dict(
        ratio=50, keep_ratio=None, criterion=None, pt_criterion="magnitude", budget=None, arbiter="unanimous",
        scope="all", protect=(), rounds=None, shuffle=False, score_init="own", floor=0.0,
        granularity="channel",
    )  # fmt: skip
    with pytest.raises(ValueError, match=said):
        make_plan(METHODS[method], Settings(**(usual | asked)))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="tensor '2.weight' is not in this network"):
        resize(Pair(), {"2.weight": [1]})
    for shape in ([4, 1, 1, 1], [0, 1, 1, 1], [2, 1, 1], [2.0, 1, 1, 1]):
        with pytest.raises(ValueError, match=r"tensor '0.weight' of shape \(3, 1, 1, 1\) cannot be cut to"):
            resize(Pair(), {"0.weight": shape})


def test_a_hollow_copy_shares_nothing_and_keeps_what_is_tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    made = hollow(net.eval())
    assert {value.device.type for value in [*made.parameters(), *made.buffers()]} == {"meta"}
    assert made[0].weight is made[1].weight and not made[0].bias.requires_grad and not made.training
    assert net[0].weight.device.type == "cpu" and all_shapes(made) == all_shapes(net)


def test_channels_leave_a_network_without_its_wrappers(tiny):
    net = tiny("a", "b")
    before = copy.deepcopy(net.model.state_dict())
    with pytest.raises(ValueError, match="'module.stem.weight' is inside a wrapper.* the network itself"):
        remove_channels(nn.DataParallel(net.model), net.losses, net.batches, 30)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_channels_are_removed_by_batches_of_every_task(tiny):
    sizes = []
    for by_task in (False, True):
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        batches = dict.fromkeys("ab", net.batches) if by_task else net.batches
        sizes.append((remove_channels(net.model, net.losses, batches, 30).widths, all_shapes(net.model)))
    assert sizes[0] == sizes[1]
    with pytest.raises(ValueError, match="batches by task are of a, the losses of a, b"):
        remove_channels(net.model, net.losses, {"a": net.batches}, 30)
