import pytest
import torch
from torch import nn

from prune_utils import Masked, count, prunable, shuffle_within_layers


def half(model):
    """Every second weight of every layer, shuffled."""
    mask = {n: (torch.arange(w.numel()) % 2 == 0).reshape(w.shape) for n, w in prunable(model).items()}
    return shuffle_within_layers(mask, 0)


def train(net, sparsifier, optimizer, steps, first=1):
    for step in range(first, steps + 1):
        inputs, targets = net.batches[step % 2]
        optimizer.zero_grad()
        predictions = net.model(inputs)
        sum(loss(predictions, targets) for loss in net.losses.values()).backward()
        sparsifier.mask_gradients()
        optimizer.step()
        yield step, sparsifier.after_step(step, (inputs, targets))


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.05, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_pruned_weights_stay_zero_and_the_others_train(tiny, kind):
    net = tiny("a", "b")
    mask = half(net.model)
    optimizer = OPTIMIZERS[kind](net.model.parameters())
    masked = Masked(net.model, mask)
    start = {name: w.detach().clone() for name, w in prunable(net.model).items()}
    pointers = {name: p.data_ptr() for name, p in net.model.named_parameters()}
    for _, figures in train(net, masked, optimizer, 5):
        assert figures == {}
        for name, weight in prunable(net.model).items():
            assert not weight[~mask[name]].any()
            assert not weight.grad[~mask[name]].any()
    for name, weight in prunable(net.model).items():
        assert (weight != start[name])[mask[name]].all()
    assert pointers == {name: p.data_ptr() for name, p in net.model.named_parameters()}
    assert net.model.stem.bias.grad.any()


def test_momentum_from_dense_training_does_not_revive(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    dense = Masked(net.model, {})
    list(train(net, dense, optimizer, 3))
    mask = half(net.model)
    list(train(net, Masked(net.model, mask), optimizer, 3))
    assert all(not w[~mask[name]].any() for name, w in prunable(net.model).items())


def test_layers_outside_the_mask_are_dense(tiny):
    net = tiny("a", "b")
    masked = Masked(net.model, {"stem.weight": torch.zeros(4, 2, 3, 3, dtype=torch.bool)})
    list(train(net, masked, OPTIMIZERS["sgd"](net.model.parameters()), 1))
    assert not net.model.stem.weight.any()
    assert net.model.trunk.weight.all()


def test_mask_and_density_are_what_was_given(tiny):
    net = tiny("a", "b")
    mask = half(net.model)
    masked = Masked(net.model, mask)
    assert all(torch.equal(masked.mask[name], mask[name]) for name in mask)
    assert masked.density == pytest.approx(0.5)
    masked.mask["stem.weight"].fill_(True)  # a copy
    assert count(masked.mask) == count(mask)


def test_state_travels(tiny, tmp_path):
    first, second = tiny("a", "b"), tiny("a", "b")
    mask = half(first.model)
    torch.save(Masked(first.model, mask).state_dict(), tmp_path / "state.pth")
    other = Masked(second.model, shuffle_within_layers(mask, 1))
    other.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    assert all(torch.equal(other.mask[name], mask[name]) for name in mask)
    assert all(not w[~mask[name]].any() for name, w in prunable(second.model).items())


def test_what_does_not_fit_is_named(tiny):
    net = tiny("a", "b")
    with pytest.raises(ValueError, match="'stem.weight' has shape"):
        Masked(net.model, {"stem.weight": torch.ones(2, dtype=torch.bool)})
    masked = Masked(net.model, half(net.model))
    with pytest.raises(ValueError, match="differ in layer 'branch.weight'"):
        masked.load_state_dict({"mask": {n: m for n, m in masked.mask.items() if n != "branch.weight"}})


def test_on_the_networks_device():
    model = nn.Linear(4, 2, device="meta")
    model.weight.grad = torch.empty_like(model.weight)
    masked = Masked(model, {"weight": torch.ones(2, 4, dtype=torch.bool)})
    masked.mask_gradients()
    assert masked.after_step(1, None) == {}
    assert masked.mask["weight"].is_meta


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layouts_change_nothing(tiny, layout):
    net = tiny("a", "b")
    before = {name: w.detach().clone() for name, w in prunable(net.model).items()}
    net.model.to(memory_format=layout)
    mask = half(net.model)
    masked = Masked(net.model, mask)
    for name, weight in prunable(net.model).items():
        weight.grad = before[name].clone()
        weight.data.copy_(before[name])
    masked.mask_gradients()
    masked.after_step(1, None)
    for name, weight in prunable(net.model).items():
        assert torch.equal(weight, before[name] * mask[name])
        assert torch.equal(weight.grad, before[name] * mask[name])
