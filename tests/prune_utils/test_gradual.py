import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from prune_utils import (
    Growth,
    Pool,
    Voter,
    count,
    dense_mask,
    global_budget,
    joint_voter,
    prunable,
    task_voters,
)
from prune_utils.gradual import Gradual, Pace, alternating, cubic, gradual_budgets, make_pace
from prune_utils.granularity import Grain, find_granularity

from .test_masked import OPTIMIZERS, train


def test_pace_by_hand():
    pace = Pace(start=10, end=50, every=10, fraction=0.5)
    assert pace.steps == (10, 20, 30, 40, 50)
    assert [step for step in range(-5, 80) if pace.due(step)] == [10, 20, 30, 40, 50]
    assert [pace.drop_fraction(step) for step in (10, 30, 50)] == pytest.approx([0.5, 0.25, 0])
    assert Pace(0, 25, 10).steps == (10, 20, 25) and Pace(0, 25, 10).due(25) and not Pace(0, 25, 10).due(30)
    assert Pace(7, 7, 1).steps == (7,)


def test_paces_in_steps_or_fractions():
    assert make_pace(0.1, 0.75, 0.01, 0.5, 20_000) == Pace(2000, 15_000, 200, 0.5)
    assert make_pace(3, 9, 2, 0, 20) == Pace(3, 9, 2, 0)
    with pytest.raises(ValueError, match="ends after step 30, but the run has 20 steps"):
        make_pace(0, 30, 2, 0, 20)


@pytest.mark.parametrize("values", [(-1, 5, 1, 0), (6, 5, 1, 0), (0, 0, 1, 0), (0, 5, 0, 0), (0, 5, 1, 1.5)])
def test_paces_are_checked(values):
    with pytest.raises(ValueError, match="gradual"):
        Pace(*values)


def test_cubic_by_hand():
    """s_t = s_f - s_f (1 - (t - t0) / (n dt)) ** 3, s_f = 0.9: densities 1, 0.4797, 0.2125, 0.1141, 0.1."""
    pace = Pace(start=100, end=500, every=100)
    left = cubic(pace)
    assert left == {100: 1, 200: 27 / 64, 300: 1 / 8, 400: 1 / 64, 500: 0}
    budgets = gradual_budgets(left, 10_000, 1000, lambda n: (Pool(("a",), n),))
    assert {step: budget[0].keep for step, budget in budgets.items()} == {
        100: 10_000,
        200: 4797,
        300: 2125,
        400: 1141,
        500: 1000,
    }


def test_alternating_by_hand():
    assert alternating(Pace(start=4, end=20, every=3)) == {4: 0, 7: 1, 10: 0, 13: 1, 16: 0, 19: 1, 20: 0}
    assert alternating(Pace(start=4, end=8, every=3)) == {4: 0, 7: 1, 8: 0}


def test_pools_shrink_while_the_whole_does():
    """Largest remainders may give a layer a weight back; then the earlier event keeps it as well."""
    keeps = {30: (5, 25), 20: (6, 14), 10: (3, 7)}
    budgets = gradual_budgets(
        {1: 1.0, 2: 0.5, 3: 0.0}, 30, 10, lambda n: tuple(map(Pool, (("a",), ("b",)), keeps[n]))
    )
    assert {step: [pool.keep for pool in budget] for step, budget in budgets.items()} == {
        1: [6, 25],
        2: [6, 14],
        3: [3, 7],
    }


def shapes(model):
    return {name: w.shape for name, w in prunable(model).items()}


def total(model):
    return sum(w.numel() for w in prunable(model).values())


def events(model, remaining, keep):
    return gradual_budgets(remaining, total(model), keep, lambda n: global_budget(shapes(model), n))


def magnitude(net, granularity="weight"):
    voters = (joint_voter(net.losses, net.weights, net.owners),)
    return Growth(voters, "magnitude", grain=Grain(find_granularity(granularity)))


def test_gmp_prunes_the_smallest_exactly_and_never_returns(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    pace = Pace(2, 8, 3)
    plan = events(net.model, cubic(pace), 25)
    gmp = Gradual(net.model, dense_mask(net.model), optimizer, pace, plan, magnitude(net))
    weights, before, everything = prunable(net.model), gmp.mask, total(net.model)
    assert not gmp.ready
    for step, figures in train(net, gmp, optimizer, 10):
        now = gmp.mask
        assert bool(figures) == (step in (2, 5, 8))
        expected = {5: 25 + round((everything - 25) / 8), 8: 25}.get(step, count(before))
        assert count(now) == expected
        assert all((before[name] | ~now[name]).all() for name in now)
        assert all(not w[~now[name]].any() for name, w in weights.items())
        assert gmp.ready == (step >= 8) and gmp.twin is None
        before = now


def test_gmp_by_hand():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -3.0, 2.0, -1.0]]))
    ranking = Growth((Voter("joint", lambda out, _: out.sum(), frozenset({"weight"})),), "magnitude")
    plan = {1: (Pool(("weight",), 3),), 2: (Pool(("weight",), 1),)}
    gmp = Gradual(model, dense_mask(model), None, Pace(1, 2, 1), plan, ranking)
    assert gmp.after_step(1, None)["density"] == 0.75
    assert model.weight.tolist() == [[0, -3, 2, -1]]
    assert gmp.after_step(2, None)["density"] == 0.25
    assert model.weight.tolist() == [[0, -3, 0, 0]]


def test_unanimous_gradual_prunes_only_what_no_task_needs(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    pace = Pace(1, 4, 1)
    ranking = Growth(task_voters(net.losses, net.owners), "snip")
    plan = events(net.model, cubic(pace), 25)
    gradual = Gradual(net.model, dense_mask(net.model), optimizer, pace, plan, ranking)
    for step, _ in train(net, gradual, optimizer, 5):
        assert count(gradual.mask) == sum(pool.keep for pool in plan[min(max(step, 1), 4)])
    # the best of each task are among the kept: no head and no task is empty
    assert all(gradual.mask[f"heads.{task}.weight"].any() for task in net.losses)


def test_a_task_without_a_label_ranks_by_magnitude():
    """Each owns one layer and "b" is not in this batch: the largest of its weights stays all the same."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
            with torch.no_grad():
                self.a.weight.fill_(1.0)
                self.b.weight.copy_(torch.tensor([[1.0, 4.0, 3.0, 2.0]]))

        def forward(self, x):
            return {"a": self.a(x), "b": self.b(x)}

    voters = (
        Voter("a", lambda out, _: out["a"].sum(), frozenset({"a.weight"})),
        Voter("b", lambda out, _: None, frozenset({"b.weight"})),
    )
    model, names = Two(), ("a.weight", "b.weight")
    plan = {1: (Pool(names, 2),)}
    gradual = Gradual(model, dense_mask(model), None, Pace(1, 1, 1), plan, Growth(voters, "snip"))
    gradual.after_step(1, (torch.tensor([[9.0, 8.0, 7.0, 6.0]]), None))
    assert gradual.mask["a.weight"].tolist() == [[True, False, False, False]]
    assert gradual.mask["b.weight"].tolist() == [[False, True, False, False]]


class Row(nn.Module):
    """y = sum(w x), so that dL/dw is the input."""

    def __init__(self, values):
        super().__init__()
        self.row = nn.Linear(len(values), 1, bias=False)
        with torch.no_grad():
            self.row.weight.copy_(torch.tensor([values]))

    def forward(self, x):
        return self.row(x)


def test_granet_by_hand():
    """6 of 8 stay by magnitude; of these 6 a third (2) go as well, and the 2 largest gradients come back."""
    model = Row([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    optimizer = torch.optim.Adam(model.parameters())
    voter = Voter("joint", lambda out, _: out.sum(), frozenset({"row.weight"}))
    plan = {1: (Pool(("row.weight",), 6),), 2: (Pool(("row.weight",), 4),)}
    granet = Gradual(
        model,
        dense_mask(model),
        optimizer,
        Pace(1, 2, 1, fraction=1 / 3),
        plan,
        Growth((voter,), "magnitude"),
        Growth((voter,), "gradient"),
    )
    batch = torch.tensor([[0.0, 0, 0, 0, 1.0, 9.0, 2.0, 5.0]]), None
    figures = granet.after_step(1, batch)
    assert figures["dropped"] == 2 and figures["density"] == 6 / 8
    assert granet.mask["row.weight"].tolist() == [[True] * 4 + [False, True, False, True]]
    assert model.row.weight.tolist() == [[8, 7, 6, 5, 0, 0, 0, 0]]
    figures = granet.after_step(2, batch)  # the fraction is 0 at the end
    assert granet.mask["row.weight"].tolist() == [[True] * 4 + [False] * 4]
    assert granet.ready


def test_granet_meets_every_budget(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    pace = Pace(1, 6, 1, fraction=0.5)
    growth = Growth(task_voters(net.losses, net.owners), "gradient")
    plan = events(net.model, cubic(pace), 40)
    granet = Gradual(net.model, dense_mask(net.model), optimizer, pace, plan, magnitude(net), growth)
    came_back = 0
    before = granet.mask
    for step, _ in train(net, granet, optimizer, 8):
        now = granet.mask
        assert count(now) == sum(pool.keep for pool in plan[min(step, 6)])
        came_back += sum(int((now[name] & ~before[name]).sum()) for name in now)
        before = now
    assert came_back > 0


def test_ac_dc_alternates_and_keeps_the_dense_twin(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    pace = Pace(2, 8, 2)
    plan = events(net.model, alternating(pace), 25)
    ac_dc = Gradual(net.model, dense_mask(net.model), optimizer, pace, plan, magnitude(net))
    weights, kept = prunable(net.model), []
    for step, _ in train(net, ac_dc, optimizer, 10):
        kept.append(count(ac_dc.mask))
        if step == 4:  # a dense phase begins from the sparse weights, without momentum
            assert sum(int(w.count_nonzero()) for w in weights.values()) == 25
            for weight in weights.values():
                assert not optimizer.state[weight]["exp_avg"].any()
        if step == 6:
            first = ac_dc.twin
    full = total(net.model)
    assert kept == [full, 25, 25, full, full, 25, 25, 25, 25, 25]
    assert sum(int(first[name].count_nonzero()) for name in weights) > 100
    assert ac_dc.twin is first  # the phase that ends with step 8 was sparse


def test_ac_dc_compresses_by_magnitude():
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, -3.0, 2.0, -1.0]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    ranking = Growth((Voter("joint", lambda out, _: out.sum(), frozenset({"weight"})),), "magnitude")
    pace = Pace(1, 3, 1)
    plan = {1: (Pool(("weight",), 2),), 2: (Pool(("weight",), 4),), 3: (Pool(("weight",), 2),)}
    ac_dc = Gradual(model, dense_mask(model), optimizer, pace, plan, ranking)
    ac_dc.after_step(1, None)
    assert model.weight.tolist() == [[0, -3, 2, 0]]
    ac_dc.after_step(2, None)
    with torch.no_grad():
        model.weight.add_(torch.tensor([[4.0, 0.0, 0.0, 1.0]]))
    ac_dc.after_step(3, None)
    assert model.weight.tolist() == [[4, -3, 0, 0]]
    assert ac_dc.twin["weight"].tolist() == [[4, -3, 2, 1]]


def test_a_pace_needs_its_budgets(tiny):
    net = tiny("a")
    with pytest.raises(ValueError, match="there are budgets for steps .1., the pace prunes at .1, 2"):
        Gradual(net.model, dense_mask(net.model), None, Pace(1, 2, 1), {1: ()}, magnitude(net))


def test_what_an_event_leaves_over_is_not_a_dense_phase():
    """Kernels of 4: of 11 weights 8 are kept, and the next budget of 10 keeps them, with what they are."""
    model = nn.Conv2d(1, 4, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([4.0, 1.0, 3.0, 2.0])[:, None, None, None].expand(4, 1, 2, 2))
    voter = Voter("joint", lambda out, _: out.sum(), frozenset({"weight"}))
    ranking = Growth((voter,), "magnitude", grain=Grain(find_granularity("kernel")))
    plan = {step: (Pool(("weight",), keep),) for step, keep in ((1, 11), (2, 10), (3, 9))}
    gmp = Gradual(model, dense_mask(model), None, Pace(1, 3, 1), plan, ranking)
    for step in (1, 2, 3):
        assert gmp.after_step(step, None)["density"] == 0.5
        assert model.weight[:, 0, 0, 0].tolist() == [4, 0, 3, 0]


@pytest.mark.parametrize("granularity", ["weight", "kernel"])
@pytest.mark.parametrize("stop", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("kind", ["cubic", "alternating"])
def test_resumes_with_the_same_bits(tiny, kind, stop, granularity):
    def start():
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        optimizer = OPTIMIZERS["adam"](net.model.parameters())
        pace = Pace(1, 7, 2, fraction=0.5)
        remaining = {"cubic": cubic, "alternating": alternating}[kind](pace)
        ranking, growth = magnitude(net, granularity), None
        if kind == "cubic":
            growth = replace(ranking, voters=task_voters(net.losses, net.owners), criterion="gradient")
        plan = events(net.model, remaining, 40)
        return (
            net,
            optimizer,
            Gradual(net.model, dense_mask(net.model), optimizer, pace, plan, ranking, growth),
        )

    net, optimizer, whole = start()
    for step, _ in train(net, whole, optimizer, 9):
        if step == stop:
            state = copy.deepcopy((net.model.state_dict(), optimizer.state_dict(), whole.state_dict()))
    again, other, resumed = start()
    again.model.load_state_dict(state[0])
    other.load_state_dict(state[1])
    resumed.load_state_dict(state[2])
    for step in range(stop + 1, 10):
        inputs, targets = again.batches[step % 2]
        other.zero_grad()
        predictions = again.model(inputs)
        sum(loss(predictions, targets) for loss in again.losses.values()).backward()
        resumed.mask_gradients()
        other.step()
        resumed.after_step(step, (inputs, targets))
    for name, value in net.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert all(torch.equal(resumed.mask[name], kept) for name, kept in whole.mask.items())
    assert (resumed.twin is None) == (whole.twin is None)
    for name, value in (whole.twin or {}).items():
        assert torch.equal(resumed.twin[name], value), name


def test_a_fraction_that_is_not_given_is_half_where_weights_regrow(tiny):
    net = tiny("a", "b")
    pace = Pace(1, 6, 1)
    assert pace.fraction is None and pace.drop_fraction(1) == 0
    plan = events(net.model, cubic(pace), 40)
    growth = Growth(task_voters(net.losses, net.owners), "gradient")
    for grows in (growth, None):
        made = Gradual(net.model, dense_mask(net.model), None, pace, plan, magnitude(net), grows)
        assert (made.regrows, made.schedule.fraction) == ((True, 0.5) if grows else (False, 0.0))
