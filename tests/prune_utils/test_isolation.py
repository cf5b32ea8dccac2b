"""What a look at a network leaves as it was, beside gradients and buffers (test_scoring.py)."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import prune_utils as pu
from prune_utils.isolation import same_modes


class Adapted(nn.Linear):
    """An adapter that is merged into its layer in evaluation mode."""

    merged = False

    def __init__(self):
        super().__init__(6, 6)
        self.adapter = nn.Parameter(torch.randn(6, 6))

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += -self.adapter if mode else self.adapter
            self.merged = not mode
        return self


@pytest.mark.parametrize("training", [True, False])
def test_adapters_are_merged_in_evaluation_mode_alone(training):
    model = nn.Sequential(Adapted(), nn.Dropout()).train(training)
    model[1].train(not training)
    with same_modes(model):
        model.train(not training)
    before = model[0].weight.detach().clone()
    pu.weight_uses(model, (torch.ones(1, 6), None))
    assert torch.equal(model[0].weight, before)
    assert [module.training for module in model.modules()] == [training, training, not training]
    assert model[0].merged is not training


class Chance(nn.Module):
    """Drops by the streams of Python and NumPy."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 20), nn.Linear(20, 2)

    def forward(self, x):
        kept = torch.tensor([random.random() < 0.5 for _ in range(20)])
        return self.head(self.body(x) * kept * float(np.random.rand()))


def test_the_streams_of_python_and_numpy_are_seeded_and_as_before():
    masks = []
    for _ in range(2):
        before = random.getstate(), np.random.get_state()
        torch.manual_seed(0)
        losses = {"a": lambda out, true: out[:, 0].sum(), "b": lambda out, true: out[:, 1].square().sum()}
        masks.append(pu.sparsify(Chance(), losses, [(torch.ones(3, 6), None)], 50).mask)
        after = random.getstate(), np.random.get_state()
        assert after[0] == before[0]
        assert all(np.array_equal(*pair) for pair in zip(after[1], before[1], strict=True))
        random.random(), np.random.rand()
    assert all(torch.equal(masks[1][name], kept) for name, kept in masks[0].items())
