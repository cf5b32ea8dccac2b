import copy

import pytest
import torch
from torch import nn

from prune_utils import Pool, count, prunable
from prune_utils.gradual import Pace
from prune_utils.top_kast import TopKast

from .test_masked import OPTIMIZERS, train


def row(values, lr=1.0, decay=0.0):
    model = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([values]))
    return model, torch.optim.SGD(model.parameters(), lr=lr, weight_decay=decay)


def pools(keep):
    return (Pool(("weight",), keep),)


def step(model, optimizer, kast, number, gradient):
    model.weight.grad = torch.tensor([gradient])
    kast.mask_gradients()
    optimizer.step()
    return kast.after_step(number, None)


def test_by_hand():
    """A holds 2 of 4, B 3; only B learns, and a weight of B grows into A with what it has learned."""
    model, optimizer = row([4.0, 3.0, 2.0, 1.0])
    mask = {"weight": torch.tensor([[True, True, False, False]])}
    kast = TopKast(model, mask, optimizer, Pace(2, 4, 2), pools(2), pools(3))
    assert model.weight.tolist() == [[4, 3, 0, 0]]
    assert step(model, optimizer, kast, 1, [0.0, 1.0, -0.5, -9.0]) == {}
    assert model.weight.tolist() == [[4, 2, 0, 0]]  # B holds 2.5, and 1 outside it stays 1
    figures = step(model, optimizer, kast, 2, [0.0, 0.5, -0.5, -9.0])
    assert model.weight.tolist() == [[4, 0, 3, 0]]
    assert figures == {"density": 0.5, "trained": 0.75, "replaced_share": 0.5}
    assert kast.state_dict()["aside"]["weight"].tolist() == [[0, 1.5, 0, 1]]
    step(model, optimizer, kast, 3, [4.0, 0.0, 0.0, -9.0])
    step(model, optimizer, kast, 4, [0.0, 0.0, 0.0, 0.0])  # 0, 1.5, 3, 1: all is still there
    assert model.weight.tolist() == [[0, 1.5, 3, 0]]
    assert kast.state_dict()["trained"]["weight"].tolist() == [[False, True, True, True]]


def test_a_first_mask_by_another_rule_is_inside_b():
    """A is the two smallest; B is A and the largest of the others, and A's weights train."""
    model, optimizer = row([4.0, 3.0, 2.0, 1.0])
    mask = {"weight": torch.tensor([[False, False, True, True]])}
    kast = TopKast(model, mask, optimizer, Pace(2, 4, 2), pools(2), pools(3))
    assert kast.trained["weight"].tolist() == [[True, False, True, True]]
    step(model, optimizer, kast, 1, [0.5, 9.0, 0.5, -0.5])
    assert model.weight.tolist() == [[0, 0, 1.5, 1.5]]
    step(model, optimizer, kast, 2, [0.0, 0.0, 0.0, 0.0])
    assert model.weight.tolist() == [[3.5, 3, 0, 0]]  # from the first event on the largest of all
    assert kast.trained["weight"].tolist() == [[True, True, True, False]]


def test_a_first_mask_that_b_cannot_hold_is_refused():
    model, optimizer = row([4.0, 3.0, 2.0, 1.0])
    mask = {"weight": torch.ones(1, 4, dtype=torch.bool)}
    with pytest.raises(ValueError, match="keeps 1 weights of 'weight' more than the backward set holds"):
        TopKast(model, mask, optimizer, Pace(2, 4, 2), pools(2), pools(3))


def test_exploration_pays_its_decay_divided_by_the_density():
    """Weight decay 0.1: A shrinks by 0.1 w, B outside A by 0.1 w / D with D = 1/4, the rest not at all."""
    model, optimizer = row([8.0, 4.0, 2.0, 1.0], decay=0.1)
    mask = {"weight": torch.tensor([[True, False, False, False]])}
    kast = TopKast(model, mask, optimizer, Pace(9, 9, 1), pools(1), pools(2))
    step(model, optimizer, kast, 1, [0.0, 0.0, 0.0, 0.0])
    assert model.weight.tolist() == [[pytest.approx(8 - 0.8), 0, 0, 0]]
    aside = kast.state_dict()["aside"]["weight"].tolist()
    assert aside == [[0, pytest.approx(4 - 0.1 * 4 * 4), 2, 1]]


def test_leaving_b_forgets_the_momentum():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 2.0, 1.9]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mask = {"weight": torch.tensor([[True, False, False]])}
    kast = TopKast(model, mask, optimizer, Pace(1, 3, 1), pools(1), pools(2))
    step(model, optimizer, kast, 1, [1.0, 5.0, 0.0])  # 2.9, 1.5, 1.9: the second weight leaves B
    assert optimizer.state[model.weight]["momentum_buffer"].tolist() == [[1, 0, 0]]


def test_backward_holds_forward():
    model, optimizer = row([1.0, 2.0])
    mask = {"weight": torch.tensor([[True, True]])}
    with pytest.raises(ValueError, match="the backward set must hold the forward set, in 'weight' too"):
        TopKast(model, mask, optimizer, Pace(1, 1, 1), pools(2), pools(1))


def start(tiny, kind="adam"):
    net = tiny("a", "b")
    net.model.drop.p = 0.0
    weights = prunable(net.model)
    mask = {}
    for name, weight in weights.items():
        edge = weight.detach().abs().flatten().sort(descending=True).values[weight.numel() // 4 - 1]
        mask[name] = weight.detach().abs() >= edge
    small = tuple(Pool((name,), int(kept.sum())) for name, kept in mask.items())
    large = tuple(Pool((name,), int(kept.sum()) + kept.numel() // 4) for name, kept in mask.items())
    optimizer = OPTIMIZERS[kind](net.model.parameters())
    return net, optimizer, TopKast(net.model, mask, optimizer, Pace(2, 8, 2), small, large)


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_the_network_is_sparse_whenever_anybody_looks(tiny, kind):
    net, optimizer, kast = start(tiny, kind)
    keep, moved = count(kast.mask), 0.0
    for number, figures in train(net, kast, optimizer, 10):
        assert count(kast.mask) == keep
        assert bool(figures) == (number in (2, 4, 6, 8))
        moved += figures.get("replaced_share", 0.0)
        for name, weight in prunable(net.model).items():
            assert not weight[~kast.mask[name]].any()
    assert moved > 0


def test_attached_is_the_same_bit_for_bit(tiny):
    net, optimizer, kast = start(tiny)
    list(train(net, kast, optimizer, 6))
    other, theirs, attached = start(tiny)
    attached.attach(theirs)
    for number in range(1, 7):
        inputs, targets = other.batches[number % 2]
        theirs.zero_grad()
        predictions = other.model(inputs)
        sum(loss(predictions, targets) for loss in other.losses.values()).backward()
        theirs.step()
    for name, value in net.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name
    with pytest.raises(ValueError, match="goes with one optimizer, not 2"):
        attached.attach(theirs, theirs)


@pytest.mark.parametrize("stop", [1, 4])
def test_resumes_with_the_same_bits(tiny, stop):
    net, optimizer, kast = start(tiny)
    for number, _ in train(net, kast, optimizer, 7):
        if number == stop:
            state = copy.deepcopy((net.model.state_dict(), optimizer.state_dict(), kast.state_dict()))
    other, theirs, resumed = start(tiny)
    other.model.load_state_dict(state[0])
    theirs.load_state_dict(state[1])
    resumed.load_state_dict(state[2])
    for number in range(stop + 1, 8):
        inputs, targets = other.batches[number % 2]
        theirs.zero_grad()
        predictions = other.model(inputs)
        sum(loss(predictions, targets) for loss in other.losses.values()).backward()
        resumed.mask_gradients()
        theirs.step()
        resumed.after_step(number, (inputs, targets))
    for name, value in net.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name


class Seen(nn.Linear):
    """Notes the weights that it computes with."""

    def forward(self, x):
        self.seen = self.weight.tolist()
        return super().forward(x)


@pytest.mark.parametrize("form", ["by position", "by name"])
def test_a_closure_computes_with_a_and_b_learns(form):
    ends = []
    for closes in (True, False):
        model = Seen(4, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[4.0, 3.0, 2.0, 1.0]]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        mask = {"weight": torch.tensor([[True, True, False, False]])}
        kast = TopKast(model, mask, optimizer, Pace(2, 4, 2), pools(2), pools(3)).attach(optimizer)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(torch.ones(1, 4)).square().sum()
            loss.backward()
            return loss

        losses = []
        for _ in range(3):
            held = model.weight.tolist()
            if closes:
                loss = optimizer.step(closure) if form == "by position" else optimizer.step(closure=closure)
            else:
                loss = closure()
                optimizer.step()
            losses.append(loss.item())
            assert model.seen == held and held[0].count(0) == 2
        ends.append((losses, model.weight.tolist(), kast.state_dict()["aside"]["weight"].tolist()))
    assert ends[0] == ends[1]


def test_an_optimizer_that_looks_twice_computes_with_a_both_times():
    class Twice(torch.optim.SGD):
        def step(self, closure):
            with torch.enable_grad():
                closure()
            super().step()
            with torch.enable_grad():
                return closure()

    model = Seen(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[4.0, 2.0]]))
    optimizer, seen = Twice(model.parameters(), lr=0.5), []
    mask = {"weight": torch.tensor([[True, False]])}
    kast = TopKast(model, mask, optimizer, Pace(9, 9, 1), pools(1), pools(2)).attach(optimizer)

    def closure():
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        seen.append(model.seen)

    optimizer.step(closure)
    assert seen == [[[4, 0]], [[3.5, 0]]]
    assert model.weight.tolist() == [[3.5, 0]] and kast.state_dict()["aside"]["weight"].tolist() == [[0, 1.5]]


def test_what_is_kept_aside_follows_the_network():
    model, optimizer = row([4.0, 3.0, 2.0, 1.0])
    mask = {"weight": torch.tensor([[True, True, False, False]])}
    kast = TopKast(model, mask, optimizer, Pace(5, 9, 2), pools(2), pools(3))
    model.to("meta")
    model.weight.grad = torch.empty_like(model.weight)
    kast.mask_gradient("weight")
    kast.mask_gradients()
    optimizer.step()
    assert kast.after_step(1, None) == {}
    state = kast.state_dict()
    assert state["trained"]["weight"].is_meta and state["aside"]["weight"].is_meta


def test_a_saved_state_stays_as_it_was():
    model, optimizer = row([4.0, 3.0, 2.0, 1.0])
    mask = {"weight": torch.tensor([[True, True, False, False]])}
    kast = TopKast(model, mask, optimizer, Pace(2, 4, 2), pools(2), pools(3))
    state = kast.state_dict()
    before = copy.deepcopy(state)
    for number in (1, 2):
        step(model, optimizer, kast, number, [0.0, 1.0, -0.5, -9.0])
    for part in ("trained", "aside"):
        assert torch.equal(state[part]["weight"], before[part]["weight"])
        kast.state_dict()[part]["weight"].zero_()
    assert kast.trained["weight"].any() and kast.state_dict()["aside"]["weight"].any()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"aside": None}, "saved state lacks 'aside', which a TopKast has"),
        ({"aside": {}}, "'aside' of the saved state and the network differ in layer 'weight'"),
    ],
)
def test_a_state_of_another_kind_changes_nothing(changes, said):
    model, optimizer = row([4.0, 3.0, 2.0, 1.0])
    mask = {"weight": torch.tensor([[True, True, False, False]])}
    kast = TopKast(model, mask, optimizer, Pace(2, 4, 2), pools(2), pools(3))
    state = kast.state_dict() | {"mask": {"weight": ~mask["weight"]}} | changes
    state = {name: part for name, part in state.items() if part is not None}
    with pytest.raises(ValueError, match=said):
        kast.load_state_dict(state)
    assert torch.equal(kast.mask["weight"], mask["weight"]) and model.weight.tolist() == [[4, 3, 0, 0]]
