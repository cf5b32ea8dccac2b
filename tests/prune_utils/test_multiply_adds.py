"""Multiply-adds by the way layers are registered and called."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

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


class Also(nn.Conv2d):
    """Returns its input beside its output, as some attention layers do."""

    def forward(self, x):
        return super().forward(x), x


class Trains(nn.Module):
    """Returns losses in training mode and a list in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = Also(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 5)

    def forward(self, x):
        out = self.last(self.norm(self.conv(x)[0]))
        return {"a": out.mean(), "b": out.std()} if self.training else [out]


def test_a_network_may_return_its_losses_in_training_mode_alone():
    uses = weight_uses(Trains(), BATCH, lambda model, batch: dict(model(batch[0]).items()))
    assert uses == {"conv.weight": 16, "last.weight": 8}
    assert uses == weight_uses(Trains(), BATCH)


def test_a_layer_may_be_called_by_keyword():
    assert weight_uses(Named(True), BATCH) == USES


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (parametrizations.weight_norm, "0.parametrizations.weight.original1"),
        (parametrizations.spectral_norm, "0.parametrizations.weight.original"),
        (weight_norm, "0.weight_v"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_of_a_weight_that_a_norm_divides_the_lengths_multiply_no_input(norm, name):
    net = nn.Sequential(norm(nn.Conv2d(1, 2, 3)), nn.Flatten(), nn.Linear(32, 5))
    assert weight_uses(net, BATCH) == {name: 16, "2.weight": 1}
