"""Layers under weight_norm and spectral_norm: of what is divided by its own norm something stays."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import prune_utils as pu
from prune_utils.divided import divided, empty_slices, keep_slices, slices, spare
from prune_utils.granularity import Grain, find_granularity
from prune_utils.masks import shuffle_within_layers

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


def test_the_best_unit_of_each_slice_is_lifted_as_a_whole():
    """Kernels of two weights: sums 3 and 4 in row 0, 9 and 0 in row 1. The largest sum is 9."""
    net = parametrizations.weight_norm(nn.Conv1d(2, 2, 2))
    name = "parametrizations.weight.original1"
    scores = {"a": {name: torch.tensor([[[3.0, 0.0], [2.0, 2.0]], [[4.0, 5.0], [0.0, 0.0]]])}}
    kernel = Grain(find_granularity("kernel"))
    assert spare(net, scores, grain=kernel)["a"][name].tolist() == [[[3, 0], [9, 9]], [[9, 9], [0, 0]]]
    below = {"a": {name: scores["a"][name] - 9}}
    assert spare(net, below, grain=kernel)["a"][name].tolist() == [[[-6, -9], [0, 0]], [[0, 0], [-9, -9]]]
    among = {name: torch.ones(2, 2, 2, dtype=torch.bool)}
    among[name][0, 1] = False
    assert spare(net, scores, among, kernel)["a"][name][0].tolist() == [[9, 9], [2, 2]]


def convolutions(norm):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inner = NORMS[norm](nn.Conv2d(8, 8, 3, padding=1))
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), inner)


IMAGE = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(2))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "asked",
    [
        {"granularity": "kernel"},
        {"granularity": "kernel", "method": "random"},
        {"granularity": "block:4x1"},
        {"granularity": "block:2x2", "shuffle": True},
        {"granularity": "kernel", "shuffle": True},
        {"shuffle": True},
        {"shuffle": True, "ratio": 95},
    ],
    ids=str,
)
def test_nothing_is_divided_by_zero_in_units_or_by_lot(norm, asked):
    net = convolutions(norm)
    sparsity = pu.sparsify(net, LOSSES, [(IMAGE, None)], **({"ratio": 80, "floor": 0} | asked))
    kept, of = pu.count(sparsity.mask), sparsity.certificate["asked_keep"]
    assert of - 9 < kept <= of and net(IMAGE).isfinite().all()


def test_units_that_move_keep_something_of_every_slice():
    net = convolutions("rows")
    schedule = pu.Schedule(20, 1, fraction=0.9)
    moved = pu.sparsify(net, LOSSES, [(IMAGE, None)], 80, "rigl", granularity="kernel", schedule=schedule)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    moved.attach(optimizer)
    for _ in range(4):
        optimizer.zero_grad()
        torch.stack([loss(net(IMAGE), None) for loss in LOSSES.values()]).sum().backward()
        optimizer.step()
        assert net(IMAGE).isfinite().all()
    assert moved.updates == 4


def test_a_slice_without_a_unit_gets_one_by_lot():
    """Rows [0, 1], [2, 3], [4, 5] of six weights; row 1 has none: the first of its lots comes, the last of
    the others goes, which is not the only one of its row."""
    places = torch.arange(6).reshape(3, 2)
    lots = torch.tensor([5, 0, 3, 2, 4, 1])
    kept = torch.tensor([[True, True], [False, False], [True, False]])
    assert keep_slices(kept, places, 0, lots).tolist() == [[False, True], [False, True], [True, False]]
    whole = torch.tensor([[True, False], [False, True], [True, False]])
    assert torch.equal(keep_slices(whole, places, 0, lots), whole)


def test_a_shuffle_that_empties_nothing_is_the_plain_one():
    found = []
    for net in (convolutions("spectral"), convolutions("spectral")):
        found.append(pu.sparsify(net, LOSSES, [(IMAGE, None)], 80, floor=0, shuffle=bool(found)).mask)
    expected = shuffle_within_layers(found[0], 0)
    assert all(torch.equal(found[1][name], kept) for name, kept in expected.items())


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
