"""Networks that change under their mask: loaded, converted, averaged, quantised, spoilt."""

import copy

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from prune_utils import Masked, Pace, apply, count, prunable, size, sparsify, verify
from prune_utils.lookup import find_weight
from prune_utils.parameters import INSIDE

from .test_attaching import loss_of, raises
from .test_masked import OPTIMIZERS, half, train


def masked(net):
    return Masked(net.model, half(net.model), owners=net.owners, asked={"ratio": 50})


def test_a_masked_network_is_what_its_certificate_says(tiny):
    net = tiny("a", "b")
    sparsity = masked(net)
    mask = sparsity.mask
    assert sparsity.verify() == {
        "kept": count(mask),
        "pruned": size(mask) - count(mask),
        "total": size(mask),
        "hash": sparsity.certificate["hash"],
        "zeros": size(mask) - count(mask),
    }
    with torch.no_grad():  # a kept weight may be 0, as one that has just been grown is
        net.model.trunk.weight.zero_()
    found = sparsity.verify()
    assert found["zeros"] == size(mask) - count(mask) + int(mask["trunk.weight"].sum())
    assert found["pruned"] == sparsity.certificate["pruned"] == size(mask) - count(mask)


def test_the_first_layer_that_differs_is_named(tiny):
    net = tiny("a", "b")
    sparsity = masked(net)
    cert, mask = sparsity.certificate, sparsity.mask
    with torch.no_grad():
        net.model.trunk.weight[~mask["trunk.weight"]] = float("nan")
        net.model.branch.weight.fill_(1)
    dead = int((~mask["trunk.weight"]).sum())
    with raises(f"layer 'trunk' holds {dead} weights other than 0 where the mask prunes"):
        sparsity.verify()
    apply(net.model, mask)
    kept = int(mask["stem.weight"].sum())
    other = mask | {"stem.weight": torch.ones_like(mask["stem.weight"])}
    with raises(f"layer 'stem' keeps 72 of 72 weights, the certificate says {kept} of 72"):
        verify(net.model, other, cert)
    fewer = {name: kept for name, kept in mask.items() if name != "heads.a.weight"}
    with raises("layer 'heads.a' of the certificate is not in the mask"):
        verify(net.model, fewer, cert)
    moved = {name: kept.flip(0) for name, kept in mask.items()}
    apply(net.model, moved)
    with pytest.raises(ValueError, match="other weights are kept: the mask's hash is"):
        verify(net.model, moved, cert)
    with raises("layer 'stem' of the certificate is not in the network"):
        verify(nn.Sequential(nn.Conv2d(2, 4, 3)), mask, cert)


def test_the_certificate_follows_a_mask_that_is_loaded(tiny):
    net = tiny("a", "b")
    sparsity = masked(net)
    first = sparsity.certificate["hash"]
    sparsity.load_state_dict({"mask": {name: kept.flip(0) for name, kept in sparsity.mask.items()}})
    assert sparsity.certificate["hash"] != first
    assert sparsity.verify()["hash"] == sparsity.certificate["hash"]


@pytest.mark.parametrize("change", ["assign", "half", "double", "bfloat16", "empty"])
def test_parameters_that_were_replaced_are_held_as_well(tiny, change):
    net = tiny("a", "b")
    sparsity = masked(net)
    if change == "assign":
        net.model.load_state_dict(tiny("a", "b").model.state_dict(), assign=True)
    elif change == "empty":  # materialised anew, as a network from the meta device is
        net.model.to_empty(device="cpu")
        net.model.load_state_dict(tiny("a", "b").model.state_dict())
    else:
        getattr(net.model, change)()
        dtype = net.model.stem.weight.dtype
        net.batches = [(x.to(dtype), {t: y.to(dtype) for t, y in ys.items()}) for x, ys in net.batches]
    list(train(net, sparsity, OPTIMIZERS["sgd"](net.model.parameters()), 2))
    assert sparsity.verify()["kept"] == count(sparsity.mask)
    assert sum(int(w.count_nonzero()) for w in prunable(net.model).values()) == count(sparsity.mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -1.0])
def test_pruned_is_plus_zero_whatever_it_was(dtype, poison):
    layer = nn.Linear(3, 2, dtype=dtype)
    mask = {"weight": torch.tensor([[True, False, True], [False, True, False]])}
    sparsity = Masked(layer, mask)
    kept = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.masked_fill_(~mask["weight"], poison)
    layer.weight.grad = torch.full_like(layer.weight, poison)
    sparsity.mask_gradients()
    sparsity.after_step(1, None)
    assert torch.equal(layer.weight, kept)
    assert not torch.signbit(layer.weight[~mask["weight"]]).any()  # files with one kind of 0 are smaller
    expected = torch.full_like(kept, poison).masked_fill(~mask["weight"], 0)
    assert torch.equal(layer.weight.grad.isnan(), expected.isnan())
    assert torch.equal(layer.weight.grad.nan_to_num(), expected.nan_to_num())


def test_kept_values_keep_every_bit():
    values = torch.tensor([[float("nan"), -0.0, 1e-45, float("-inf")]])
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(values)
    Masked(layer, {"weight": torch.ones(1, 4, dtype=torch.bool)}).after_step(1, None)
    assert torch.equal(layer.weight.view(torch.int32), values.view(torch.int32))


def test_an_average_of_the_weights_is_as_sparse(tiny):
    net = tiny("a")
    sparsity, optimizer = masked(net), OPTIMIZERS["adam"](net.model.parameters())
    sparsity.attach(optimizer)
    average = torch.optim.swa_utils.AveragedModel(
        net.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(net, net.batches[0]).backward()
        optimizer.step()
        average.update_parameters(net.model)
    assert sparsity.verify(average) == sparsity.verify()
    assert not torch.equal(average.module.trunk.weight, net.model.trunk.weight)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_network_keeps_its_zeros(tiny):
    net = tiny("a", "b")
    sparsity = masked(net)
    quantised = quantize_dynamic(copy.deepcopy(net.model), {nn.Linear}, dtype=torch.qint8)
    assert not isinstance(quantised.heads["a"], nn.Linear)
    assert sparsity.verify(quantised)["kept"] == count(sparsity.mask)
    sparsity.model = quantised
    with pytest.raises(ValueError, match="the network has no parameter 'heads.a.weight' any more"):
        sparsity.after_step(1, None)


def test_wrappers_change_no_name(tiny):
    net = tiny("a", "b")
    sparsity = masked(net)
    wrapped = nn.DataParallel(net.model)
    assert sparsity.verify(wrapped) == sparsity.verify()
    sparsity.model = wrapped
    sparsity.after_step(1, None)
    assert list(sparsity.weights) == list(prunable(net.model))
    net.model.trunk = torch.compile(net.model.trunk)
    assert sparsity.verify()["kept"] == count(sparsity.mask)
    sparsity.after_step(2, None)


class Average(nn.Module):
    """As other packages hold an average: the network is its `module`."""

    def __init__(self, model):
        super().__init__()
        self.module = model


@pytest.mark.parametrize("wrapper", ["module", *INSIDE])
def test_every_wrapper_is_seen_through_by_name_and_by_weight(tiny, wrapper):
    net = tiny("a", "b")
    sparsity = masked(net)
    wrapped = Average(net.model) if wrapper == "module" else nn.ModuleDict({wrapper: net.model})
    assert find_weight(wrapped, "heads.a.weight") is net.model.heads["a"].weight
    assert sparsity.verify(wrapped) == sparsity.verify()
    if wrapper != "module":  # a user's own layer may be called so
        assert list(prunable(wrapped)) == list(prunable(net.model))
    with pytest.raises(ValueError, match="^the network has no parameter 'heads.c.weight' any more"):
        find_weight(wrapped, "heads.c.weight")


def test_gradients_in_sparse_storage_are_refused():
    layer = nn.Linear(3, 2)
    sparsity = Masked(layer, {"weight": torch.ones(2, 3, dtype=torch.bool)})
    layer.weight.grad = torch.eye(2, 3).to_sparse()
    with raises("the gradient of 'weight' is torch.sparse_coo: make its layer with sparse=False"):
        sparsity.mask_gradients()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "76 weights, and ratio 70 asks for 77"),
        ({"ratio_of": "macs"}, r"\d+ multiply-adds, and ratio 70 asks for \d+"),
        ({"granularity": "kernel"}, r"\d+ weights, and ratio 70 asks for 77"),
    ],
)
def test_a_mask_that_misses_its_ratio_is_noticed_at_its_end(tiny, asked, said):
    """Every layer may lack less than a unit; a mask that is still on its way keeps more than it will."""
    net = tiny("a", "b")
    made = sparsify(net.model, net.losses, net.batches, 70, **asked)
    made.verify()
    less = made.mask
    lost = 1 if not asked else int(less["trunk.weight"].sum())
    less["trunk.weight"].view(-1)[less["trunk.weight"].view(-1).nonzero()[:lost]] = False
    made.load_state_dict({"mask": less})
    with pytest.raises(ValueError, match=said):
        made.verify()


def test_a_mask_on_its_way_is_not_held_to_its_end(tiny):
    net = tiny("a", "b")
    pace = Pace(1, 2, 1)
    made = sparsify(net.model, net.losses, net.batches, 70, "gmp", schedule=pace)
    assert made.verify()["kept"] == 256
    optimizer = torch.optim.SGD(net.model.parameters(), 0.1)
    for step in (1, 2):
        optimizer.step()
        made.after_step(step, net.batches[0])
    assert made.verify()["kept"] == 77
