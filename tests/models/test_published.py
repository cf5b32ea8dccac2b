"""Published names and the form of torch.nn.utils.prune, in and out."""

import pytest
import torch

from models.multitask import MultiTaskNet
from models.published import from_published, is_published, to_published


@pytest.fixture
def net():
    torch.manual_seed(0)
    return MultiTaskNet({"seg": 3, "sn": 3}, backbone="resnet18", width=0.06)


def prunable(state):
    return [name for name, value in state.items() if value.ndim == 4]


def half_mask(state):
    mask = {}
    for name in prunable(state):
        mask[name] = torch.zeros(state[name].shape, dtype=torch.bool)
        mask[name].view(-1)[::2] = True
    return mask


def test_names(net):
    published = to_published(net.state_dict(), None, net.tasks)
    assert {"backbone.conv1.weight", "backbone.bn1.running_mean", "backbone.blocks.3.1.bn2.bias"} <= set(
        published
    )
    assert {"backbone.ds.1.0.weight", "backbone.ds.3.1.weight", "task2_fc1_c3.conv3.bias"} <= set(published)
    assert is_published(published) and not is_published(net.state_dict())


@pytest.mark.parametrize("mask_type", [torch.float32, torch.int32])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_round_trip(net, mask_type, prefix):
    state, mask = net.state_dict(), half_mask(net.state_dict())
    published = {
        prefix + name: value.to(mask_type) if name.endswith("_mask") else value
        for name, value in to_published(state, mask, net.tasks).items()
    }
    back, kept = from_published(published, state, net.tasks)
    assert all(torch.equal(kept[name], mask[name]) for name in mask)
    for name, value in state.items():
        assert torch.equal(back[name], value * mask[name] if name in mask else value)


def test_dense_round_trip_has_no_mask(net):
    back, mask = from_published(to_published(net.state_dict(), None, net.tasks), net.state_dict(), net.tasks)
    assert mask is None
    assert all(torch.equal(back[name], value) for name, value in net.state_dict().items())


def test_first_wrong_tensor_is_named(net):
    published = to_published(net.state_dict(), None, net.tasks)
    wrong = dict(published) | {"task1_fc1_c0.conv3.weight": torch.zeros(7, 61, 1, 1)}
    with pytest.raises(
        ValueError, match=r"task1_fc1_c0.conv3.weight' has shape \(7, 61, 1, 1\), the network's is \(3"
    ):
        from_published(wrong, net.state_dict(), net.tasks)
    short = {name: value for name, value in published.items() if name != "backbone.conv1.weight"}
    with pytest.raises(ValueError, match="'backbone.conv1.weight' is missing"):
        from_published(short, net.state_dict(), net.tasks)
    with pytest.raises(ValueError, match="'task3_fc1_c0.conv1.weight' is not part of this network"):
        from_published(published | {"task3_fc1_c0.conv1.weight": torch.zeros(1)}, net.state_dict(), net.tasks)


def test_branched_network_has_no_published_form():
    net = MultiTaskNet({"seg": 3, "sn": 3}, backbone="resnet18", width=0.06, branch_after="stem")
    with pytest.raises(ValueError, match="has no name in the published form"):
        to_published(net.state_dict(), None, net.tasks)
