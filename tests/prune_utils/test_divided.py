"""Layers under weight_norm and spectral_norm: of what is divided by its own norm something stays."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import prune_utils as pu
from prune_utils.divided import divided, empty_slices, slices, spare

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
LOSSES = {
    "a": lambda out, _: out[:, :4].square().mean(),
    "b": lambda out, _: (out[:, 2:] - 1).abs().mean(),
}
NORMS = {
    "rows": lambda layer: parametrizations.weight_norm(layer),
    "columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "whole": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "hook": lambda layer: weight_norm(layer),
    "spectral": lambda layer: parametrizations.spectral_norm(layer),
    "spectral hook": lambda layer: spectral_norm(layer),
}
AXES = {"rows": 0, "columns": 1, "whole": -1, "hook": 0, "spectral": -1, "spectral hook": -1}


def make(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), NORMS[norm](nn.Linear(8, 8)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS)
def test_the_axis_of_every_norm_is_known(norm):
    assert list(divided(make(norm)).values()) == [AXES[norm]]


def test_slices_by_hand():
    values = torch.arange(6).reshape(2, 3)
    assert slices(values, 0).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert slices(values, 1).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert slices(values, -1).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert empty_slices(values > 4, 0) == 1
    assert empty_slices(values > 4, 1) == 2


def test_the_best_of_each_slice_is_lifted_by_all_voters_together():
    net = parametrizations.weight_norm(nn.Linear(3, 2))
    name = "parametrizations.weight.original1"
    scores = {
        "a": {name: torch.tensor([[1.0, 2.0, 0.0], [8.0, 0.0, 0.0]]), "bias": torch.tensor([9.0])},
        "b": {name: torch.tensor([[4.0, 1.0, 0.0], [0.0, 1.0, 0.0]])},
    }
    # row 0: 1/8 + 4/4, 2/8 + 1/4; row 1: 8/8 + 0, 0 + 1/4
    lifted = spare(net, scores)
    assert lifted["a"][name].tolist() == [[9, 2, 0], [9, 0, 0]]
    assert lifted["b"][name].tolist() == [[4, 1, 0], [4, 1, 0]]
    assert scores["a"][name][0, 0] == 1
    among = {name: torch.tensor([[False, True, True], [True, True, True]])}
    assert spare(net, scores, among)["a"][name].tolist() == [[1, 9, 0], [9, 0, 0]]
    plain = {"a": {"weight": torch.ones(2, 3)}}
    assert spare(nn.Linear(3, 2), plain) is plain


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("arbiter", ["unanimous", "intersection"])
def test_nothing_is_divided_by_zero_at_95_percent(norm, arbiter):
    net = make(norm)
    ratio = 80 if arbiter == "intersection" else 90
    sparsity = pu.sparsify(net, LOSSES, [(X, None)], ratio, arbiter=arbiter, floor=0)
    assert pu.count(sparsity.mask) == pu.keep_count(48 + 64, ratio)
    assert net(X).isfinite().all()


def test_a_mask_that_moves_keeps_something_of_every_slice():
    net = make("rows")
    sparsity = pu.sparsify(
        net, LOSSES, [(X, None)], 85, "disparse_dynamic", schedule=pu.Schedule(20, 1, fraction=0.9)
    )
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    sparsity.attach(optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        torch.stack([loss(net(X), None) for loss in LOSSES.values()]).sum().backward()
        optimizer.step()
        assert net(X).isfinite().all()
    assert sparsity.updates == 6
    assert sparsity.verify()["kept"] == pu.keep_count(48 + 64, 85)


def test_a_mask_that_leaves_nothing_of_a_slice_is_refused_by_name():
    net = parametrizations.weight_norm(nn.Linear(3, 2))
    mask = pu.dense_mask(net)
    (name,) = mask
    mask[name][1] = False
    with pytest.raises(ValueError, match=f"mask of '{name}' leaves nothing of 1 slices that are divided"):
        pu.apply(net, mask)
