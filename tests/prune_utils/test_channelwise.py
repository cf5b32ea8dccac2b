import copy

import pytest
import torch
from torch import nn

from models.multitask import MultiTaskNet
from prune_utils import Masked, Rounds, count, geometric_keeps
from prune_utils.channelwise import channel_grain, group_magnitude, link
from prune_utils.choosing import choose
from prune_utils.masks import apply, shuffle_within_layers
from prune_utils.methods import METHODS, method, retraining
from prune_utils.multiply_adds import weight_uses
from prune_utils.removing import removal_of
from prune_utils.rounds import progressive

torch_pruning = pytest.importorskip("torch_pruning")

IMAGE = torch.zeros(1, 3, 33, 33)


def grain_of(net, of="macs", multiple=1):
    return channel_grain(link(net, (IMAGE,)), weight_uses(net, (IMAGE, None)), of, multiple)


def magnitudes(net, uses):
    return {"a": {name: value.detach().abs() for name, value in net.named_parameters() if name in uses}}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MultiTaskNet({"seg": 4, "sn": 3}, "resnet18", 0.0625).eval()


@pytest.mark.parametrize(("of", "multiple"), [("params", 1), ("macs", 4)])
def test_rounds_on_the_masked_network_are_rounds_on_ever_smaller_ones(net, of, multiple):
    grain = grain_of(net, of, multiple)
    mask, smaller, sizes = None, copy.deepcopy(net), []
    for keep in geometric_keeps(getattr(grain.whole, of), grain.keep(70), 3):
        mask = choose(magnitudes(net, grain.counts), grain.budget(keep), "unanimous", mask, grain)
        apply(net, mask)
        here = grain_of(smaller, of, multiple)
        step = choose(magnitudes(smaller, here.counts), here.budget(keep), "unanimous", grain=here)
        removal_of(here, step, keep).apply(smaller)
        sizes.append(grain.cost(mask))
        assert sizes[-1] == getattr(grain_of(smaller, of, multiple).whole, of) <= keep
    assert sizes == sorted(sizes, reverse=True)
    cut = removal_of(grain, mask, keep).cut(net.state_dict())
    for name, value in smaller.state_dict().items():
        assert torch.equal(cut[name], value), name


def test_a_masked_network_learns_what_the_smaller_one_does():
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 2, 1),
    ).double()  # fmt: skip
    grain = grain_of(net.float())
    net.double()
    mask = choose(magnitudes(net, grain.counts), grain.budget(grain.keep(50)), "unanimous", grain=grain)
    removal, smaller = removal_of(grain, mask, grain.keep(50)), copy.deepcopy(net)
    removal.apply(smaller)
    held = Masked(net, mask)
    optimizers = [torch.optim.Adam(each.parameters(), 1e-2, weight_decay=0.1) for each in (net, smaller)]
    held.attach(optimizers[0])
    for _ in range(5):
        image = torch.randn(4, 3, 9, 9, dtype=torch.float64)
        for each, optimizer in zip((net, smaller), optimizers, strict=True):
            optimizer.zero_grad()
            each(image).square().mean().backward()
            optimizer.step()
    cut = removal.cut(net.state_dict())
    for name, value in smaller.state_dict().items():
        torch.testing.assert_close(cut[name], value, rtol=1e-9, atol=1e-12)


def test_training_between_rounds_removes_by_the_scores_of_that_moment(net):
    grain = grain_of(net)
    keeps = geometric_keeps(grain.whole.macs, grain.keep(60), 3)
    first = choose(magnitudes(net, grain.counts), grain.budget(keeps[0]), "unanimous", grain=grain)
    seen = []

    def score(network):
        seen.append(grain.cost(rounds.mask))
        return magnitudes(network, grain.counts)

    rounds = Rounds(net, first, [grain.budget(keep) for keep in keeps[1:]], 2, score=score, grain=grain)
    figures = [rounds.after_step(step, None) for step in range(1, 6)]
    assert [figure.get("round") for figure in figures] == [None, 1, None, 2, None]
    assert seen[0] <= keeps[0] and seen[1] <= keeps[1] and grain.cost(rounds.mask) <= keeps[2]
    assert all((first[name] | ~kept).all() for name, kept in rounds.mask.items())
    resumed = Rounds(net, first, rounds.budgets, 2, score=score, grain=grain)
    resumed.load_state_dict(rounds.state_dict())
    assert resumed.done == 2 and all(torch.equal(resumed.mask[n], kept) for n, kept in rounds.mask.items())


def test_progressive_rounds_restore_norms_too(net):
    grain, before = grain_of(net), copy.deepcopy(net.state_dict())
    budgets = [grain.budget(keep) for keep in geometric_keeps(grain.whole.macs, grain.keep(60), 3)]
    mask = progressive(net, lambda model: magnitudes(model, grain.counts), budgets, "unanimous", grain=grain)
    assert grain.cost(mask) <= grain.keep(60) and count(mask) < sum(k.numel() for k in mask.values())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_shuffled_channels_cost_the_same(net):
    grain = grain_of(net)
    mask = choose(magnitudes(net, grain.counts), grain.budget(grain.keep(60)), "unanimous", grain=grain)
    units = grain.units(mask)
    other = grain.masked(shuffle_within_layers(units, 3), {name: kept.shape for name, kept in mask.items()})
    assert grain.cost(other) == grain.cost(mask)
    assert removal_of(grain, other, 0).widths == removal_of(grain, mask, 0).widths
    assert any(not torch.equal(other[name], kept) for name, kept in mask.items())
    assert all(torch.equal(kept, mask[name]) for name, kept in grain.masked(
        units, {name: kept.shape for name, kept in mask.items()}).items())  # fmt: skip


def theirs(net):
    """torch-pruning's own importance of every channel of ours, by the layer that makes it."""
    graph = torch_pruning.DependencyGraph().build_dependency(net, IMAGE)
    names = {module: name for name, module in net.named_modules()}
    importance = torch_pruning.importance.GroupMagnitudeImportance()
    groups = graph.get_all_groups(root_module_types=[nn.Conv2d])
    return {names[group[0].dep.target.module]: importance(group) for group in groups}


def test_group_magnitude_is_that_of_torch_pruning_also_of_what_is_left(net):
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
    grain = grain_of(net)
    ours, reference = group_magnitude(net, grain), theirs(net)
    assert len(ours) == len(grain.linked.channels) > 20
    for name, found in ours.items():
        torch.testing.assert_close(found.float(), reference[name], rtol=1e-5, atol=0)
    mask = choose({"all": ours}, grain.budget(grain.keep(60)), "unanimous", grain=grain)
    smaller = copy.deepcopy(net)
    removal_of(grain, mask, 0).apply(smaller)
    apply(net, mask)
    again, reference, units = group_magnitude(net, grain), theirs(smaller), grain.units(mask)
    for name, found in again.items():
        torch.testing.assert_close(found[units[name]].float(), reference[name], rtol=1e-5, atol=0)
        assert not found[~units[name]].any()


def test_retraining_is_for_trained_networks_in_several_rounds():
    assert retraining(method("imp"), None) is METHODS["imp"]
    assert retraining(method("disparse_pt"), 5).retrain
    with pytest.raises(ValueError, match="method snip starts from none"):
        retraining(method("snip"), 5)
    for rounds in (None, 1):
        with pytest.raises(
            ValueError, match="retrain needs rounds to train between: rounds 2 or more, not 1"
        ):
            retraining(method("disparse_pt"), rounds)
