"""On a GPU as on the CPU: masks bit for bit where the scores are given, scores and steps within rounding.

Every test also runs with the CPU as its own device, which shows that it can pass; `make test-cuda` runs them
where a GPU is.
"""

from __future__ import annotations

import copy

import pytest
import torch

from prune_utils.budgets import Pool, make_budget
from prune_utils.choosing import choose
from prune_utils.granularity import Grain, find_granularity
from prune_utils.masked import Masked
from prune_utils.masks import apply, count
from prune_utils.regrow import Growth, Regrowth, Schedule
from prune_utils.scoring import score
from prune_utils.shrinking import remove_channels
from prune_utils.sparse_file import load_sparse, save_sparse
from prune_utils.voters import task_voters

GPU = pytest.param(
    "cuda",
    marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")],
)
DEVICES = pytest.mark.parametrize("device", ["cpu", GPU])
PRECISIONS = pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])


def moved(parts, device):
    """Batches, or scores, or a mask, on the device."""
    if isinstance(parts, torch.Tensor):
        return parts.to(device)
    if isinstance(parts, dict):
        return {name: moved(part, device) for name, part in parts.items()}
    return type(parts)(moved(part, device) for part in parts)


def owned(case):
    return {name: weight for name, weight in case.model.named_parameters() if name in case.owners}


def every(nth, case, device):
    """The mask that keeps every nth weight."""
    numbers = {name: torch.arange(weight.numel(), device=device) for name, weight in owned(case).items()}
    return {name: (of % nth == 0).view_as(owned(case)[name]) for name, of in numbers.items()}


def everything(tiny, device):
    """A small network without dropout (whose random numbers differ between devices), its voters, a batch."""
    case = tiny("a", "b")
    case.model.drop.p = 0.0
    case.model.to(device)
    return case, task_voters(case.losses, case.owners), moved(case.batches, device)


def scores_on(tiny, device, criterion="snip"):
    case, voters, batches = everything(tiny, device)
    return score(case.model, voters, list(enumerate(batches)), criterion)


@DEVICES
@pytest.mark.parametrize("criterion", ["snip", "magnitude", "fisher"])
def test_scores_are_those_of_the_cpu(criterion, device, tiny):
    here, there = scores_on(tiny, "cpu", criterion), scores_on(tiny, device, criterion)
    for voter, of in here.items():
        for name, values in of.items():
            assert there[voter][name].device.type == device
            torch.testing.assert_close(there[voter][name].cpu(), values, rtol=1e-4, atol=1e-6)


@DEVICES
@pytest.mark.parametrize("arbiter", ["unanimous", "majority", "share"])
def test_equal_scores_give_equal_masks(arbiter, device, tiny):
    case = tiny("a", "b")
    generator = torch.Generator().manual_seed(3)
    shapes = {name: weight.shape for name, weight in owned(case).items()}
    scores = {
        task: {
            name: torch.rand(s, generator=generator)
            for name, s in shapes.items()
            if task in case.owners[name]
        }
        for task in case.losses
    }
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    budget = make_budget(
        "global", {name: tuple(shape) for name, shape in shapes.items()}, sum(sizes.values()) // 10
    )
    here, there = choose(scores, budget, arbiter), choose(moved(scores, device), budget, arbiter)
    assert count(here) == sum(pool.keep for pool in budget)
    assert all(torch.equal(kept, there[name].cpu()) for name, kept in here.items())


def stepped(tiny, device, kind, optimizer=torch.optim.AdamW):
    """Three steps of a masked network in a precision; the network and its mask."""
    case, _, batches = everything(tiny, device)
    mask = every(10, case, device)
    optimizer = optimizer(case.model.parameters(), lr=1e-2)
    masked = Masked(case.model, mask)
    masked.attach(optimizer)
    scaler = torch.amp.GradScaler(device, enabled=kind == torch.float16)
    for number in range(3):
        image, targets = batches[number % 2]
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=kind, enabled=kind != torch.float32):
            predictions = case.model(image)
            loss = sum(of(predictions, targets) for of in case.losses.values())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return case.model, masked


@DEVICES
@PRECISIONS
def test_pruned_weights_are_0_after_every_step(kind, device, tiny):
    model, masked = stepped(tiny, device, kind)
    weights = dict(model.named_parameters())
    for name, kept in masked.mask.items():
        assert kept.device.type == device
        assert not weights[name][~kept].any() and weights[name].isfinite().all()
    assert masked.verify()["pruned"] == sum(int((~kept).sum()) for kept in masked.mask.values())


@DEVICES
def test_a_step_is_that_of_the_cpu(device, tiny):
    # not Adam, whose first steps are as large for a gradient that only rounding makes
    here, there = (stepped(tiny, at, torch.float32, torch.optim.SGD)[0] for at in ("cpu", device))
    for name, value in here.state_dict().items():
        torch.testing.assert_close(there.state_dict()[name].cpu(), value, rtol=1e-3, atol=1e-4)


@DEVICES
def test_a_moving_mask_keeps_its_size_and_stays_on_the_device(device, tiny):
    case, voters, batches = everything(tiny, device)
    mask = every(5, case, device)
    before = count(mask)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.1, momentum=0.9)
    moving = Regrowth(case.model, mask, optimizer, Schedule(until=10, every=1), Growth(voters))
    for number in (1, 2):
        image, targets = batches[number % 2]
        optimizer.zero_grad()
        sum(of(case.model(image), targets) for of in case.losses.values()).backward()
        moving.mask_gradients()
        optimizer.step()
        figures = moving.after_step(number, batches[number % 2])
        assert figures and count(moving.mask) == before
    assert all(kept.device.type == device for kept in moving.mask.values())
    assert any(not torch.equal(kept, mask[name]) for name, kept in moving.mask.items())


@DEVICES
def test_what_is_saved_there_is_read_here(device, tiny, tmp_path):
    model, masked = stepped(tiny, device, torch.float32)
    save_sparse(tmp_path / "net.safetensors", model, masked.mask, masked.certificate)
    again = copy.deepcopy(model).cpu()
    for weight in again.parameters():
        torch.nn.init.zeros_(weight)
    load_sparse(tmp_path / "net.safetensors", again)
    assert all(torch.equal(value, model.state_dict()[n].cpu()) for n, value in again.state_dict().items())


@DEVICES
@pytest.mark.parametrize("kernel", [None, 1])
def test_two_of_four_weights_multiply_as_the_device_multiplies_them(device, kernel):
    layer = (
        torch.nn.Linear(128, 64, bias=False) if kernel is None else torch.nn.Conv2d(128, 64, 1, bias=False)
    )
    scores = {voter: {"weight": torch.randn_like(layer.weight)} for voter in "ab"}
    half = (Pool(("weight",), layer.weight.numel() // 2),)
    mask = choose(scores, half, "unanimous", grain=Grain(find_granularity("2:4")))
    apply(layer, mask)
    matrix = layer.weight.detach().flatten(1).to(device, torch.float16)
    inputs = torch.randn(128, 64).to(device, torch.float16)
    # what hardware holds of it: half the values, and where they stand
    held = torch.sparse.to_sparse_semi_structured(matrix) if device == "cuda" else matrix.to_sparse().float()
    given = inputs if device == "cuda" else inputs.float()
    expected = matrix.float() @ inputs.float()
    torch.testing.assert_close((held @ given).float(), expected, rtol=2e-2, atol=2e-2)
    if device == "cuda":
        assert torch.equal(held.to_dense(), matrix)


@DEVICES
@pytest.mark.parametrize("name", ["kernel", "block:2x1", "2:4", "fanin"])
def test_equal_scores_give_equal_units(name, device, tiny):
    case = tiny("a", "b")
    generator = torch.Generator().manual_seed(3)
    weights = {
        at: weight for at, weight in owned(case).items() if find_granularity(name).divides(weight.shape)
    }
    scores = {
        task: {at: torch.rand(weight.shape, generator=generator) for at, weight in weights.items()}
        for task in case.losses
    }
    budget = [Pool((at,), weight.numel() // 2) for at, weight in weights.items()]
    grain = Grain(find_granularity(name))
    here, there = (
        choose(scores, budget, "unanimous", grain=grain),
        choose(moved(scores, device), budget, "unanimous", grain=grain),
    )
    assert all(torch.equal(kept, there[at].cpu()) for at, kept in here.items()) and here


@DEVICES
def test_the_same_channels_leave(device):
    pytest.importorskip("torch_pruning")
    torch.manual_seed(5)
    layers = [torch.nn.Conv2d(3, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 4, 1)]
    net = torch.nn.Sequential(*layers)
    image = torch.randn(2, 3, 9, 9)
    losses = {"a": lambda out, _: out[:, :2].square().mean(), "b": lambda out, _: out[:, 2:].abs().mean()}

    def gone(where):
        model = copy.deepcopy(net).to(where)
        removal = remove_channels(model, losses, [(image.to(where), None)], 40, method="magnitude")
        assert all(value.device.type == where for value in model.state_dict().values())
        return removal.gone

    assert gone(device) == gone("cpu")
