"""The moving average of weights: worked by hand, zero where weights are pruned, the same after a reload."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.averaging import Average


def set_to(network, value):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def test_average_of_three_steps_by_hand():
    network = nn.Linear(2, 1)
    set_to(network, 0.0)
    average = Average(network, 0.25)
    for value, expected in ((1.0, 0.8181818182), (2.0, 1.7045454545), (4.0, 3.4261363636)):
        set_to(network, value)  # decays min(0.25, 2/11, 3/12, 4/13) = 2/11, 1/4, 1/4
        average.update({})
        assert average.network.weight.flatten().tolist() == pytest.approx([expected] * 2)
        assert average.network.bias.item() == pytest.approx(expected)
    assert network.weight.flatten().tolist() == [4.0, 4.0]


def test_buffers_are_averaged_and_counters_copied():
    network = nn.BatchNorm1d(1)
    average = Average(network, 0.1)
    network(torch.full((4, 1), 10.0))  # running mean 0 -> 1
    average.update({})
    assert average.network.running_mean.item() == pytest.approx(0.9)
    assert average.network.num_batches_tracked.item() == 1


def test_what_is_pruned_now_is_zero_whatever_was_kept_earlier():
    network = nn.Linear(2, 1, bias=False)
    set_to(network, 1.0)
    average = Average(network, 0.1)
    average.update({"weight": torch.tensor([[True, True]])})
    with torch.no_grad():
        network.weight[0, 0] = 0
    average.update({"weight": torch.tensor([[False, True]])})
    assert average.network.weight.tolist() == [[0.0, 1.0]]


def test_a_reloaded_average_goes_on_as_the_first(tmp_path):
    def walk(average, network, values):
        for value in values:
            set_to(network, value)
            average.update({})

    network = nn.Linear(3, 2)
    set_to(network, 0.0)
    whole, half = Average(network, 0.9), Average(network, 0.9)
    walk(whole, network, [1.0, 5.0, 2.0, 7.0])
    walk(half, network, [1.0, 5.0])
    again = Average(network, 0.9)
    again.load_state_dict({name: value.clone() for name, value in half.state_dict().items()}, 2)
    walk(again, network, [2.0, 7.0])
    assert torch.equal(again.network.weight, whole.network.weight)
