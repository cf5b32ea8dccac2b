"""The arithmetic of benchmarks/channels.py; the times themselves are the machine's."""

import torch
from torch import nn

from benchmarks.channels import equal_ratio, pruned
from prune_utils.masks import count, prunable


def test_the_smallest_ratio_that_is_quick_enough():
    assert equal_ratio(lambda ratio: 100 - ratio, 20.0) == 80.0
    assert equal_ratio(lambda ratio: 100 - ratio, 16.35) == 83.7
    assert equal_ratio(lambda ratio: 100 - ratio, 200.0) == 0.0
    assert equal_ratio(lambda ratio: 100 - ratio, 0.5) is None


def test_the_smallest_weights_go_from_a_copy():
    net = nn.Sequential(nn.Conv2d(1, 4, 2, bias=False), nn.Conv2d(4, 1, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(16.0).reshape(4, 1, 2, 2) + 1)
        net[1].weight.copy_(-torch.arange(4.0).reshape(1, 4, 1, 1) - 17)
    made = pruned(net, 75)
    assert count({name: weight != 0 for name, weight in prunable(made).items()}) == 5
    assert made[0].weight.flatten().nonzero().tolist() == [[15]] and made[1].weight.all()
    assert net[0].weight.all()
