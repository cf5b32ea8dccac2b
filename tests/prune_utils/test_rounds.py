import copy

import pytest
import torch

from prune_utils import (
    Pace,
    Pool,
    Rounds,
    count,
    geometric_keeps,
    global_budget,
    keep_count,
    progressive,
    prunable,
    score,
    size,
    sparsify,
    task_voters,
)
from prune_utils.floors import Floors
from prune_utils.multiply_adds import weight_uses
from prune_utils.rounds import nest_above

from .test_masked import OPTIMIZERS, half, train


@pytest.mark.parametrize(
    ("total", "keep", "rounds", "expected"),
    [
        (1000, 1, 3, (100, 10, 1)),
        (1000, 100, 1, (100,)),
        (1000, 100, 2, (316, 100)),
        (100, 100, 2, (100, 100)),
        (10, 0, 2, (0, 0)),
        (0, 0, 3, (0, 0, 0)),
    ],
)
def test_geometric_keeps(total, keep, rounds, expected):
    assert geometric_keeps(total, keep, rounds) == expected


def test_imp_has_eleven_rounds_of_equal_proportion():
    keeps = geometric_keeps(10**9, 10**8, 11)
    steps = [b / a for a, b in zip((10**9, *keeps), keeps, strict=False)]
    assert steps == pytest.approx([0.1 ** (1 / 11)] * 11)
    assert keeps[-1] == 10**8


@pytest.mark.parametrize("rounds", [0, -1, 1.5, "2", True])
def test_rounds_are_checked(rounds):
    with pytest.raises(ValueError, match=f"rounds {rounds!r} is not a whole number"):
        geometric_keeps(10, 1, rounds)


def budgets(model, *keeps):
    shapes = {name: w.shape for name, w in prunable(model).items()}
    return tuple(global_budget(shapes, keep) for keep in keeps)


def test_progressive_scores_the_survivors_and_restores_the_model(tiny):
    net = tiny("a", "b")
    before = copy.deepcopy(net.model.state_dict())
    alive = []

    def score_network(model):
        alive.append(sum(int(w.count_nonzero()) for w in prunable(model).values()))
        return score(model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip")

    mask = progressive(net.model, score_network, budgets(net.model, 100, 40, 10), "unanimous")
    total = sum(w.numel() for w in prunable(net.model).values())
    assert alive == [total, 100, 40]
    assert count(mask) == 10
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_progressive_masks_nest_and_one_round_is_choose(tiny):
    net = tiny("a", "b")

    def score_network(model):
        return score(model, task_voters(net.losses, net.owners), enumerate(net.batches), "snip")

    first = progressive(net.model, score_network, budgets(net.model, 60), "unanimous")
    both = progressive(net.model, score_network, budgets(net.model, 60, 20), "unanimous")
    assert all((first[name] | ~both[name]).all() for name in both)
    assert (count(first), count(both)) == (60, 20)


@pytest.mark.parametrize(
    ("asked", "unit"),
    [
        ({"method": "synflow", "granularity": "kernel", "ratio": 90}, 9),
        ({"method": "synflow", "ratio_of": "macs", "rounds": 400}, 25),
        ({"method": "disparse_static", "granularity": "kernel", "rounds": 60}, 9),
    ],
)
def test_rounds_may_take_smaller_steps_than_a_unit(tiny, asked, unit):
    """What is left over of a round may be more than the step to the next; the end is exact to a unit."""
    net = tiny("a", "b")
    asked = {"ratio": 70} | asked
    made = sparsify(net.model, net.losses, net.batches, floor=0, **asked)
    uses = weight_uses(net.model, net.batches[0]) if "ratio_of" in asked else dict.fromkeys(made.mask, 1)
    cost = sum(uses[name] * int(kept.sum()) for name, kept in made.mask.items())
    keep = keep_count(sum(uses[name] * kept.numel() for name, kept in made.mask.items()), asked["ratio"])
    assert keep - unit < cost <= keep


def test_rounds_while_training_may_take_smaller_steps_than_a_unit(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["sgd"](net.model.parameters())
    made = sparsify(
        *(net.model, net.losses, net.batches, 70, "imp"),
        **dict(rounds=80, every=1, granularity="kernel", floor=0),
    )
    kept = [count(made.mask) for _ in train(net, made, optimizer, 80)]
    keep = keep_count(size(made.mask), 70)
    assert kept == sorted(kept, reverse=True) and keep - 9 < kept[-1] <= keep


def test_rounds_prune_on_time_by_magnitude_among_the_survivors(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    first, *later = budgets(net.model, 100, 50, 20)
    weights = prunable(net.model)
    mask = progressive(
        net.model,
        lambda m: {"w": {n: w.detach().abs() for n, w in prunable(m).items()}},
        [first],
        "unanimous",
    )
    rounds = Rounds(net.model, mask, later, every=3)
    kept, previous = [], mask
    for step, figures in train(net, rounds, optimizer, 10):
        now = rounds.mask
        kept.append(count(now))
        assert bool(figures) == (step in (3, 6))
        if figures:
            assert figures == {"density": count(now) / size(now), "round": step / 3}
            dropped = [w[previous[n] & ~now[n]] for n, w in weights.items()]
            assert not torch.cat(dropped).any()
        assert all((previous[name] | ~now[name]).all() for name in now)
        assert all(not w[~now[name]].any() for name, w in weights.items())
        previous = now
    assert kept == [100] * 2 + [50] * 3 + [20] * 5


def test_rounds_keep_the_largest(tiny):
    net = tiny("a")
    mask = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(net.model).items()}
    rounds = Rounds(net.model, mask, budgets(net.model, 30), every=1)
    values = torch.cat([w.detach().abs().reshape(-1) for w in prunable(net.model).values()]).sort(
        descending=True
    )
    rounds.after_step(1, None)
    left = torch.cat([w.detach().abs().reshape(-1) for w in prunable(net.model).values()])
    assert sorted(left[left > 0].tolist(), reverse=True) == values.values[:30].tolist()


def test_rounds_resume(tiny):
    net, other = tiny("a"), tiny("a")
    mask = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(net.model).items()}
    rounds = Rounds(net.model, mask, budgets(net.model, 30, 10), every=2)
    rounds.after_step(2, None)
    resumed = Rounds(other.model, mask, budgets(net.model, 30, 10), every=2)
    resumed.load_state_dict(rounds.state_dict())
    resumed.after_step(4, None)
    assert (resumed.done, count(resumed.mask)) == (2, 10)
    before = copy.deepcopy(net.model.state_dict())
    with pytest.raises(ValueError, match="round iterations 0"):
        Rounds(net.model, half(net.model), (), every=0)
    assert all(torch.equal(value, before[name]) for name, value in net.model.state_dict().items())


def test_rounds_are_ready_when_the_last_is_done(tiny):
    net = tiny("a")
    mask = {name: torch.ones_like(w, dtype=torch.bool) for name, w in prunable(net.model).items()}
    rounds = Rounds(net.model, mask, budgets(net.model, 30, 10), every=2)
    ready = []
    for step in range(1, 6):
        rounds.after_step(step, None)
        ready.append(rounds.ready)
    assert ready == [False, False, False, True, True]
    assert Rounds(net.model, mask, (), every=2).ready


def test_floors_let_no_layer_grow_from_budget_to_budget():
    """Whoever keeps most above its floor pays: first "a", which may then not have more at the end."""
    first, last = budget_of(a=10, b=9, c=1), budget_of(a=6, b=7, c=1)
    floors = [Floors({"c": 6}), Floors({"c": 4})]
    assert nest_above([first, last], floors) == (budget_of(a=6, b=9, c=6), budget_of(a=6, b=4, c=4))
    assert nest_above([last, first], floors[::-1]) == (budget_of(a=6, b=4, c=4), budget_of(a=5, b=9, c=6))


def budget_of(**keeps):
    return tuple(Pool((name,), keep) for name, keep in keeps.items())


class Wide(torch.nn.Module):
    """Four layers whose shares of a small budget cross their floors on the way down."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(8, 32), torch.nn.Linear(32, 32)
        self.heads = torch.nn.ModuleDict({"a": torch.nn.Linear(32, 3), "b": torch.nn.Linear(32, 1)})

    def forward(self, x):
        shared = self.two(self.one(x).relu()).relu()
        return {task: head(shared) for task, head in self.heads.items()}


@pytest.mark.parametrize("budget", ["erk", "uniform", "waterfill"])
@pytest.mark.parametrize(("share", "floor"), [(None, 0.8), (0.5, 0.5), (0.97, 0.1)])
@pytest.mark.parametrize("asked", [{"method": "disparse_gmp", "schedule": Pace(1, 6, 1)}, {"rounds": 6}])
def test_floors_and_densities_by_layer_meet_the_ratio(budget, share, floor, asked):
    losses = {task: lambda out, true, task=task: (out[task] - true).square().mean() for task in "ab"}
    batches = [(torch.randn(4, 8), torch.ones(4, 1))]
    model = Wide()
    made = sparsify(model, losses, batches, 90, budget=budget, trunk_share=share, floor=floor, **asked)
    train_by(made, model, losses, batches)
    counts = {name: int(kept.sum()) for name, kept in made.mask.items()}
    assert made.verify()["kept"] == sum(counts.values()) == 141
    if share is not None:
        assert counts["one.weight"] + counts["two.weight"] == round(share * 141)
    least = {"one.weight": 256, "two.weight": 1024, "heads.a.weight": 96, "heads.b.weight": 32}
    assert all(counts[name] >= floor * 141 * total / 1408 for name, total in least.items())


def train_by(made, model, losses, batches):
    optimizer = torch.optim.Adam(model.parameters())
    made.attach(optimizer)
    for _ in range(6):
        out = model(batches[0][0])
        sum(loss(out, batches[0][1]) for loss in losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
