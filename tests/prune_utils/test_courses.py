import copy
from dataclasses import dataclass, replace

import pytest
import torch

from prune_utils import (
    METHODS,
    Course,
    Electorate,
    Pace,
    Schedule,
    choose,
    count,
    keep_count,
    make_budget,
    make_mask,
    make_plan,
    make_sparsifier,
    method,
    prunable,
    score,
    size,
    sparsify,
)
from prune_utils.courses import changes

from .test_masked import OPTIMIZERS, train
from .test_prune import Settings

IN_TRAINING = [name for name, row in METHODS.items() if row.by_itself and row.granularity == "weight"]


@dataclass(frozen=True)
class Dynamic:
    until: float = 6
    every: float = 2
    fraction: float = 0.5
    memory: float = 0.0
    salient: float = 0.3
    drop: str = "magnitude"
    progress: float = 0.0


@dataclass(frozen=True)
class Gradual:
    start: float | None = 1
    end: float | None = 7
    every: float | None = 2
    fraction: float = 0.5
    backward: float = 0.1


def course(net, name, optimizer, steps=9, gradual=None, **settings):
    plan = make_plan(method(name), Settings(**settings))
    electorate = Electorate(net.losses, net.weights, net.owners)
    mask = make_mask(net.model, plan, electorate, list(enumerate(net.batches)))
    row, dynamic = method(name), Dynamic(memory=0.5 if method(name).grow else 0.0)
    return Course(net.model, mask, optimizer, row, plan, electorate, steps, 0, dynamic, gradual or Gradual())


@pytest.mark.parametrize("name", ["disparse_dynamic", "disparse_granet"])
def test_growth_takes_the_settings_of_moving_masks(name, tiny):
    net = tiny("a", "b")
    adam = torch.optim.Adam(net.model.parameters())
    dynamic = Dynamic(memory=0.25, salient=0.5, drop="snip", progress=2.0)
    sparsifier = make_sparsifier(replace(course(net, name, adam), dynamic=dynamic))
    growth = sparsifier.growth
    assert (growth.memory, growth.salient, growth.drop, growth.progress) == (0.25, 0.5, "snip", 2.0)
    for step, batch in zip(range(1, 7), net.batches * 6, strict=False):
        sparsifier.after_step(step, batch)
    assert set(sparsifier.state_dict()["progress"]) == {"a", "b"}


@pytest.mark.parametrize("name", ["disparse_gmp", "gmp", "top_kast", "snip", "ac_dc"])
@pytest.mark.parametrize("asked", [{"memory": 0.5}, {"drop": "snip"}, {"progress": 1.0}])
def test_a_row_that_grows_nothing_refuses_settings_of_growth(name, asked, tiny):
    made = course(tiny("a", "b"), name, None)
    ((setting, value),) = asked.items()
    said = rf"dynamic.{setting} {value} says how weights grow, and method {name} grows none: leave it out \("
    with pytest.raises(ValueError, match=said):
        make_sparsifier(replace(made, dynamic=Dynamic(**asked)))
    assert make_sparsifier(replace(made, dynamic=Dynamic())).mask


@pytest.mark.parametrize(
    ("name", "asked", "names"),
    [
        ("disparse_dynamic", None, "a b"),
        ("disparse_dynamic", "tasks", "a b"),
        ("disparse_dynamic", "joint", "joint"),
        ("rigl", None, "joint"),
        ("rigl", "tasks", "a b"),
        ("srigl", "tasks", "a b"),
        ("granet", None, "joint"),
        ("granet", "tasks", "a b"),
        ("disparse_granet", None, "a b"),
        ("disparse_granet", "joint", "joint"),
        ("set", "joint", "joint"),
    ],
)
@pytest.mark.parametrize("library", [False, True])
def test_voters_that_are_asked_for_vote_on_growth_too(tiny, name, asked, names, library):
    net = tiny("a", "b")
    if library:
        pace = Pace(1, 4, 1) if "granet" in name else Schedule(4, 1)
        made = sparsify(net.model, net.losses, net.batches, 50, name, voters=asked, schedule=pace)
    else:
        made = make_sparsifier(course(net, name, None, ratio=50, voters=asked))
    assert [voter.name for voter in made.growth.voters] == names.split()
    said = make_plan(method(name), Settings(ratio=50, voters=asked)).asked["grow_voters"]
    assert said == ("joint" if names == "joint" else "tasks")
    if library:
        assert made.certificate["asked"]["grow_voters"] == said


def test_weights_of_the_sum_are_for_the_first_mask_alone():
    asked = make_plan(method("rigl"), Settings(voters="upgrad", start_mask="snip", score_init="own"))
    assert (asked.voters, asked.grow_voters) == ("upgrad", "joint")


def test_a_row_that_grows_nothing_says_nothing_of_growth():
    assert "grow_voters" not in make_plan(method("disparse_gmp"), Settings(voters="joint")).asked


@pytest.mark.parametrize("first", [{"criterion": "random"}, {"criterion": "snip"}, {"start_mask": "snip"}])
def test_top_kast_trains_the_weights_of_any_first_mask(tiny, first):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["sgd"](net.model.parameters())
    made = course(net, "top_kast", optimizer, ratio=80, gradual=Gradual(4, 8, 4), **first)
    kast, weights = make_sparsifier(made), prunable(net.model)
    assert not any((kept & ~kast.trained[layer]).any() for layer, kept in kast.mask.items())
    next(iter(train(net, kast, optimizer, 1)))
    assert sum(int((weights[layer][kept] != 0).sum()) for layer, kept in kast.mask.items()) == 51


def test_a_pruning_ranks_on_the_batches_that_it_is_given(tiny):
    net = tiny("a", "b", "c")
    numbered = [(7, net.batches[1]), (9, net.batches[0])]
    once = Gradual(start=2, end=2, every=1)
    made = course(net, "disparse_gmp", OPTIMIZERS["sgd"](net.model.parameters()), gradual=once, ratio=80)
    sparsifier = make_sparsifier(replace(made, known={"numbered": numbered}))
    assert sparsifier.after_step(1, net.batches[0]) == {}
    shapes = {name: weight.shape for name, weight in prunable(net.model).items()}
    budget = make_budget("global", shapes, keep_count(total(net), 80))
    voters = made.electorate.voters("tasks")
    expected, step_alone = (
        choose(score(net.model, voters, batches, "snip", seed=2), budget, "unanimous")
        for batches in (numbered, [(2, net.batches[0])])
    )
    sparsifier.after_step(2, net.batches[0])
    assert all(torch.equal(sparsifier.mask[name], kept) for name, kept in expected.items())
    assert any(not torch.equal(expected[name], kept) for name, kept in step_alone.items())


def total(net):
    return sum(w.numel() for w in prunable(net.model).values())


@pytest.mark.parametrize("ratio", [50, 90, 99])
@pytest.mark.parametrize("name", IN_TRAINING)
def test_every_method_that_prunes_in_training_ends_exactly(tiny, name, ratio):
    net = tiny("a", "b", "c")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    sparsifier = make_sparsifier(course(net, name, optimizer, ratio=ratio))
    for _ in train(net, sparsifier, optimizer, 9):
        for layer, weight in prunable(net.model).items():
            assert not weight[~sparsifier.mask[layer]].any()
    assert count(sparsifier.mask) == keep_count(total(net), ratio)
    assert getattr(sparsifier, "ready", True)


@pytest.mark.parametrize("name", ["disparse_granet", "disparse_gmp", "disparse_dynamic"])
@pytest.mark.parametrize("by_task", [False, True])
def test_votes_in_training_go_through_forward_too(tiny, name, by_task):
    """Dictionaries and `forward`, for all tasks or for each, give the masks that pairs give."""
    found = []
    for asked in (False, True):
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        made = course(net, name, OPTIMIZERS["sgd"](net.model.parameters()), ratio=80, criterion="snip")
        batches = net.batches
        if asked:
            losses = {
                task: lambda out, batch, task=task: (out[task] - batch["true"][task]).square().mean()
                for task in "ab"
            }
            batches = [{"image": image, "true": true} for image, true in batches]
            batches = [dict.fromkeys("ab", each) for each in batches] if by_task else batches
            made = replace(
                made,
                electorate=replace(made.electorate, losses=losses),
                forward=lambda model, batch: model(batch["image"]),
            )
        sparsifier = make_sparsifier(replace(made, known={"batches": batches}))
        for step in range(1, 5):
            sparsifier.after_step(step, None)
        assert sparsifier.updates > 1
        found.append(sparsifier.mask)
    assert all(torch.equal(found[1][layer], kept) for layer, kept in found[0].items())


@pytest.mark.parametrize("name", ["gmp", "disparse_gmp", "granet", "ac_dc"])
def test_a_floor_holds_at_every_event(tiny, name):
    """Half of the density of the whole, in every layer; without it some layer falls below."""
    lowest = {}
    for floor in (0.0, 0.5):
        net = tiny("a", "b")
        net.model.trunk.weight.data *= 0.01  # what magnitude would starve
        optimizer = OPTIMIZERS["sgd"](net.model.parameters())
        made = course(net, name, optimizer, ratio=90, criterion="magnitude")
        made = replace(made, plan=replace(made.plan, floor=floor))
        sparsifier, lowest[floor] = make_sparsifier(made), []
        for _, figures in train(net, sparsifier, optimizer, 9):
            if "density" in figures:
                shares = [float(kept.float().mean()) for kept in sparsifier.mask.values()]
                lowest[floor].append(min(shares) / figures["density"])
        assert count(sparsifier.mask) == keep_count(total(net), 90)
    assert min(lowest[0.0]) < 0.5 <= min(lowest[0.5])


COUNTED = {"weight": {}, "kernel": {"granularity": "kernel"}, "macs": {"ratio_of": "macs"}}


@pytest.mark.parametrize("counted", COUNTED)
@pytest.mark.parametrize("name", ["gmp", "disparse_gmp", "granet", "ac_dc"])
def test_what_a_budget_leaves_over_opens_no_network_again(tiny, name, counted):
    """Every event keeps its budget but for less than a unit; of a cubic pace none keeps more than before."""
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    pace = Pace(4, 38, 2, fraction=0.3)
    made = sparsify(net.model, net.losses, net.batches, 80, name, schedule=pace, floor=0, **COUNTED[counted])
    made.optimizers = (optimizer,)
    grain, costs = made.ranking.grain, []
    unit = max(grain.unit_costs({layer: kept.shape for layer, kept in made.mask.items()}).values())
    for step, figures in train(net, made, optimizer, 39):
        if figures:
            costs.append(grain.cost(made.mask))
            budget = sum(pool.keep for pool in made.events[step])
            assert budget - unit < costs[-1] <= budget, step
    everything = max(costs)
    if name == "ac_dc":
        assert [cost == everything for cost in costs] == [False, True] * 8 + [False] * 2
    else:
        assert costs == sorted(costs, reverse=True) and made.twin is None


@pytest.mark.parametrize("counted", ["kernel", "macs"])
def test_floors_in_whole_units_open_no_network_again(tiny, counted):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["sgd"](net.model.parameters())
    more = COUNTED[counted] | {"floor": 0.5, "schedule": Pace(2, 30, 1)}
    made = sparsify(net.model, net.losses, net.batches, 80, "disparse_gmp", **more)
    costs = []
    for _ in train(net, made, optimizer, 31):
        costs.append(made.ranking.grain.cost(made.mask))
    assert costs == sorted(costs, reverse=True)
    assert 0.8 * sum(pool.keep for pool in made.events[30]) < costs[-1] < costs[0]


def test_a_floor_is_not_for_top_kast(tiny):
    net = tiny("a", "b")
    made = course(net, "top_kast", OPTIMIZERS["sgd"](net.model.parameters()))
    with pytest.raises(ValueError, match="method top_kast .* without floors: choose budget"):
        make_sparsifier(replace(made, plan=replace(made.plan, floor=0.1)))


@pytest.mark.parametrize("budget", ["erk", "uniform"])
@pytest.mark.parametrize("name", ["gmp", "disparse_granet", "ac_dc", "top_kast"])
def test_budgets_by_layer_are_met_too(tiny, name, budget):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    made = course(net, name, optimizer, ratio=80, budget=budget)
    sparsifier = make_sparsifier(made)
    list(train(net, sparsifier, optimizer, 9))
    static = make_plan(method("random"), Settings(ratio=80, budget=budget))
    expected = make_mask(net.model, static, made.electorate, [])
    kept = {name: int(of.sum()) for name, of in sparsifier.mask.items()}
    assert kept == {name: int(of.sum()) for name, of in expected.items()}


def test_layers_outside_the_scope_stay_dense(tiny):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    sparsifier = make_sparsifier(course(net, "disparse_gmp", optimizer, ratio=80, scope="backbone"))
    list(train(net, sparsifier, optimizer, 9))
    assert set(sparsifier.mask) == {"stem.weight", "trunk.weight"}
    assert count(sparsifier.mask) == keep_count(sum(m.numel() for m in sparsifier.mask.values()), 80)


def test_the_rhythm_is_the_settings_or_the_methods(tiny):
    net = tiny("a")
    made = course(net, "ac_dc", None, steps=1000, gradual=Gradual(None, 700, None))
    assert (made.pace.start, made.pace.end, made.pace.every) == (100, 700, 50)
    with pytest.raises(ValueError, match="ends after step 20, but the run has 9 steps"):
        make_sparsifier(course(net, "gmp", None, gradual=Gradual(end=20)))


def test_gradual_starts_dense(tiny):
    net = tiny("a")
    made = course(net, "gmp", None)
    made.mask["stem.weight"].view(-1)[0] = False
    with pytest.raises(ValueError, match="method gmp starts with a dense network, and this one has a mask"):
        make_sparsifier(made)


def test_changes_are_counted(tiny):
    counts = {
        name: changes(method(name), 9, Dynamic(), Gradual()) for name in ("snip", "set", "gmp", "top_kast")
    }
    assert counts == {"snip": 0, "set": 3, "gmp": 4, "top_kast": 4}


def test_same_seed_same_masks(tiny):
    ends = []
    for _ in range(2):
        net = tiny("a", "b")
        net.model.drop.p = 0.0
        optimizer = OPTIMIZERS["adam"](net.model.parameters())
        sparsifier = make_sparsifier(course(net, "disparse_granet", optimizer))
        list(train(net, sparsifier, optimizer, 9))
        ends.append(copy.deepcopy(net.model.state_dict()))
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


@pytest.mark.parametrize("name", ["gmp", "granet", "top_kast", "disparse_granet"])
def test_one_call_prunes_while_it_trains_and_ends_exact(tiny, name):
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    pace = Pace(2, 8, 3, fraction=0.3)
    floor = 0.0 if name == "top_kast" else 0.1
    sparsifier = sparsify(net.model, net.losses, net.batches, 80, name, schedule=pace, floor=floor)
    sparsifier.attach(optimizer)
    densities = []
    for step in range(9):
        batch = sparsifier.batch = net.batches[step % len(net.batches)]
        optimizer.zero_grad()
        out = net.model(batch[0])
        sum(loss(out, batch[1]) for loss in net.losses.values()).backward()
        optimizer.step()
        densities.append(sparsifier.density)
    keep = keep_count(size(sparsifier.mask), 80)
    assert sparsifier.verify()["kept"] == keep
    if name != "top_kast":  # which is sparse from the first step on
        assert densities[1] == 1 and densities[4] < 1  # the cubic pace prunes nothing at its start
        assert densities == sorted(densities, reverse=True)


@pytest.mark.parametrize("name", ["gmp", "granet", "top_kast"])
def test_one_call_asks_for_a_pace(tiny, name):
    net = tiny("a", "b")
    with pytest.raises(ValueError, match=f"method '{name}' prunes while it trains: pass schedule=prune"):
        sparsify(net.model, net.losses, net.batches, method=name)
    with pytest.raises(ValueError, match="method 'snip' does not prune while it trains, so it takes no Pace"):
        sparsify(net.model, net.losses, net.batches, method="snip", schedule=Pace(0, 4, 2))


@pytest.mark.parametrize("name", ["granet", "disparse_granet"])
@pytest.mark.parametrize("fraction", [None, 0.0])
def test_a_row_that_regrows_does_so_by_the_pace_that_is_proposed(tiny, name, fraction):
    """Half at first, as the settings of the scripts say; 0 = nothing comes back."""
    net = tiny("a", "b")
    optimizer = OPTIMIZERS["adam"](net.model.parameters())
    more = {} if fraction is None else {"fraction": fraction}
    sparsifier = sparsify(
        net.model, net.losses, net.batches, 80, name, schedule=Pace(start=1, end=9, every=2, **more)
    ).attach(optimizer)
    assert sparsifier.schedule.fraction == (0.5 if fraction is None else fraction)
    back, before = 0, sparsifier.mask
    for step in range(9):
        inputs, targets = sparsifier.batch = net.batches[step % 2]
        optimizer.zero_grad()
        out = net.model(inputs)
        sum(loss(out, targets) for loss in net.losses.values()).backward()
        optimizer.step()
        back += sum(int((now & ~before[layer]).sum()) for layer, now in sparsifier.mask.items())
        before = sparsifier.mask
    assert (back > 0) == (fraction is None)


def test_a_row_that_does_not_regrow_drops_nothing_beside(tiny):
    net = tiny("a", "b")
    gmp = sparsify(net.model, net.losses, net.batches, 80, "gmp", schedule=Pace(1, 9, 2))
    assert gmp.schedule.fraction == 0 and not gmp.regrows
