"""Multiply-adds by the way layers are registered and called."""

import torch
from torch import nn

from prune_utils.multiply_adds import weight_uses
from prune_utils.parameters import held_parameters


class Named(nn.Module):
    """Every layer has two names, and is called by keyword or not."""

    def __init__(self, by_keyword):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 3, 2, stride=2)])
        self.first, self.second = self.convs
        self.last = self.alias = nn.Linear(8, 5)
        self.by_keyword = by_keyword

    def forward(self, x):
        for layer in (self.first, self.second, self.alias):
            x = layer(input=x) if self.by_keyword else layer(x)
        return x


BATCH = (torch.zeros(1, 1, 6, 6), None)
# 4 x 4 outputs; 4 x 4 inputs; 3 x 8 vectors
USES = {"convs.0.weight": 16, "convs.1.weight": 16, "last.weight": 24}


def test_a_layer_with_two_names_is_counted_once():
    assert weight_uses(Named(False), BATCH) == USES
    assert [len(held.holders) for held in held_parameters(Named(False))] == [1] * 6


def test_a_layer_may_be_called_by_keyword():
    assert weight_uses(Named(True), BATCH) == USES
