"""The library's contract where whole channels leave: a smaller network, by sizes and by latencies."""

import pytest
import torch
from torch import nn

from prune_utils import contract

pytest.importorskip("torch_pruning")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3))
        self.heads = nn.ModuleDict({task: nn.Conv2d(12, 1, 1) for task in ("a", "b")})

    def forward(self, image):
        features = self.body(image).relu()
        return {task: head(features) for task, head in self.heads.items()}


def left(model):
    return sum(value.numel() for value in model.parameters())


def asked(model, **more):
    """Scores fall with the channels that are left anywhere; training changes nothing."""
    image = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    losses = {t: (lambda out, true, t=t: out[t].square().mean()) for t in ("a", "b")}
    whole = left(model)

    def alive(model):
        kept = sum(int(value.count_nonzero()) for value in model.parameters() if value.dim() > 1)
        return 100 + kept / whole

    def finetune(model, sparsity):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sparsity.attach(optimizer)
        optimizer.step()

    scores = dict.fromkeys(losses, alive)
    limits = dict.fromkeys(losses, 0.5)
    shared = dict(granularity="channel", resolution=10, smallest=5, stride=4)
    return contract(model, losses, [(image, None)], scores, finetune, limits, **shared, **more)


def test_the_network_on_return_is_smaller_and_computes_what_was_judged():
    net = Net().eval()
    whole = left(net)
    found = asked(net)
    assert left(net) <= found.best.trial.keep < whole
    assert net.body[0].out_channels < 16 or net.body[3].out_channels < 12
    assert all(kept.all() for kept in found.sparsity.mask.values()) and found.sparsity.verify()
    removed = found.sparsity.certificate["removed"]
    assert (removed["before"]["params"], removed["after"]["params"]) == (whole, left(net))
    assert net(torch.zeros(1, 3, 9, 9))["a"].shape == (1, 1, 5, 5)


def test_layers_out_of_scope_keep_their_channels():
    net = Net().eval()
    net.heads["a"] = nn.Sequential(nn.Conv2d(12, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    losses = {t: (lambda out, true, t=t: out[t].square().mean()) for t in ("a", "b")}
    scores = dict.fromkeys(losses, lambda model: 1.0)
    shared = dict(granularity="channel", exclude="heads.a.*", stride=64, resolution=5)
    found = contract(
        *(net, losses, [(torch.randn(4, 3, 9, 9), None)], scores),
        *(lambda model, sparsity: None, {"a": 1, "b": 1}),
        **shared,
    )
    assert all(done.kept for done in found.rounds) and left(net) <= found.best.trial.keep
    assert (net.heads["a"][0].out_channels, net.body[0].out_channels) == (4, 1)
    assert net(torch.zeros(1, 3, 9, 9))["a"].shape == (1, 1, 5, 5)


def test_the_fastest_is_found_by_what_measures_smaller_networks():
    widths = []

    def latency(model):
        widths.append((model.body[0].out_channels, model.body[3].out_channels, left(model)))
        return 1.0 + widths[-1][2] // 150  # of a machine that reads so many parameters at once

    net = Net().eval()
    found = asked(net, latencies=latency)
    assert widths[0] == (16, 12, max(found.latencies)) and min(widths)[0] < 16
    assert all(params <= size for size, (*_, params) in zip(found.latencies, widths, strict=True))
    assert found.latencies[found.best.trial.keep] < found.latencies[widths[0][2]]


def test_what_cannot_be_leaves_the_network_as_it_was():
    net = Net().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError, match="criterion group_magnitude scores whole channels for all tasks"):
        asked(net, criterion="group_magnitude")
    with pytest.raises(ValueError, match="no channel of this network can be removed"):
        asked(net, protect="*")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
