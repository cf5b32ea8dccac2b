"""Budgets from scores, and the split between trunk and heads: exact counts on tiny networks."""

import pytest
import torch

from prune_utils import (
    Pool,
    count,
    keep_count,
    make_budget,
    make_mask,
    make_plan,
    method,
    score,
    sparsify,
    weighted,
)
from prune_utils.arbiters import ARBITERS
from prune_utils.budgets import split_budget
from prune_utils.filling import fill, layer_masses, waterfill
from prune_utils.prune import choose_mask, make_budgets, make_room

from .test_prune import Settings, electorate, mask_of


def everything(**sizes):
    return {name: torch.ones(size, dtype=torch.bool) for name, size in sizes.items()}


def scores_of(**tasks):
    return {
        task: {n: torch.tensor(v, dtype=torch.float32) for n, v in of.items()} for task, of in tasks.items()
    }


def counts(budget):
    return {name: pool.keep for pool in budget for name in pool.names}


# ------------------------------------------------------------------ masses and levels
def test_masses_are_shares_of_each_owner_and_the_arbiter_says_whose_counts():
    scores = scores_of(a={"u": [1, 1], "v": [2, 0], "own": [4]}, b={"u": [3, 3], "v": [2, 0]})
    among = everything(u=2, v=2, own=1)
    assert layer_masses(scores, ARBITERS["unanimous"], among) == {"u": 0.75, "v": 0.25, "own": 0.5}
    assert layer_masses(scores, ARBITERS["intersection"], among) == {"u": 0.25, "v": 0.25, "own": 0.5}
    assert layer_masses(scores, weighted({"a": 2.0}), among) == {"u": 0.75, "v": 0.5, "own": 1.0}
    among["u"][1] = False  # a candidate less: it has no say
    assert layer_masses(scores, ARBITERS["unanimous"], among) == {"u": 0.6, "v": 0.4, "own": 4 / 7}


def test_masses_need_scores_that_are_shares():
    with pytest.raises(ValueError, match="'waterfill' needs scores of at least 0"):
        layer_masses(scores_of(a={"u": [1, -1]}), ARBITERS["unanimous"], everything(u=2))
    with pytest.raises(ValueError, match="NaN"):
        layer_masses(scores_of(a={"u": [1, float("nan")]}), ARBITERS["unanimous"], everything(u=2))
    nothing = scores_of(a={"u": [0, 0]})
    assert layer_masses(nothing, ARBITERS["unanimous"], everything(u=2)) == {"u": 0.0}


@pytest.mark.parametrize(
    ("masses", "least", "most", "total", "expected"),
    [
        ([1, 1], [1, 1], [9, 9], 10, [5, 5]),
        ([3, 1], [1, 1], [9, 9], 8, [6, 2]),
        ([3, 1], [1, 4], [9, 9], 8, [4, 4]),  # one below its bound
        ([9, 1, 1], [1, 1, 1], [4, 9, 9], 10, [4, 3, 3]),  # one above
        ([9, 1, 1], [1, 1, 1], [4, 2, 9], 10, [4, 2, 4]),  # two above
        ([1, 1e-12], [1, 0], [5, 5], 7, [5, 2]),  # what nobody needs fills up last
        ([1, 2], [2, 3], [4, 6], 5, [2, 3]),  # all at their least
        ([1, 2], [2, 3], [4, 6], 10, [4, 6]),  # all at their most
        ([1, 1], [2, 2], [2, 8], 7, [2, 5]),  # a layer without room
    ],
)
def test_the_level_meets_the_total(masses, least, most, total, expected):
    assert fill(masses, least, most, total) == pytest.approx(expected, abs=1e-9)


# ------------------------------------------------------------------ the budget
BUDGET = (Pool(("dense",), 3), Pool(("u",), 4), Pool(("v",), 4), Pool(("w",), 2))
SCORES = scores_of(
    a={"dense": [9] * 3, "u": [6] + [0] * 9, "v": [1] + [0] * 9, "w": [2] + [0] * 9},
)


def test_water_stays_between_half_and_twice_what_a_layer_had():
    among, free = everything(dense=3, u=10, v=10, w=10), frozenset("uvw")
    found = waterfill(BUDGET, SCORES, among, arbiter=ARBITERS["unanimous"], groups=[free])
    # at one level 20/3, 10/9 and 20/9 of 10: v is held at 2 of 4, and the others divide 8 as 6 : 2
    assert counts(found) == {"dense": 3, "u": 6, "v": 2, "w": 2}
    assert [pool.names for pool in found] == [pool.names for pool in BUDGET]
    flat = scores_of(a={"u": [1.0] * 10, "v": [0.0] * 10, "w": [0.0] * 10})
    found = waterfill(BUDGET, flat, among, arbiter=ARBITERS["unanimous"], groups=[free])
    assert counts(found) == {"dense": 3, "u": 7, "v": 2, "w": 1}  # everything above the floors


def test_water_flows_within_its_group_and_no_further_than_candidates():
    among = everything(dense=3, u=10, v=10, w=10)
    groups = [frozenset("u"), frozenset("vw")]
    found = waterfill(BUDGET, SCORES, among, arbiter=ARBITERS["unanimous"], groups=groups)
    assert counts(found) == {"dense": 3, "u": 4, "v": 2, "w": 4}
    group = [frozenset("uvw")]
    few = everything(dense=3, u=10, v=10, w=10)
    few["u"][5:] = False
    flat = scores_of(a={"u": [6] + [0] * 9, "v": [1] * 10, "w": [1] * 10})
    found = waterfill(BUDGET, flat, few, arbiter=ARBITERS["unanimous"], groups=group)
    assert counts(found) == {"dense": 3, "u": 2, "v": 4, "w": 4}
    few["u"][1:], few["v"][8:], few["w"][1:] = False, False, False
    found = waterfill(BUDGET, SCORES, few, arbiter=ARBITERS["unanimous"], groups=group)
    assert counts(found) == {"dense": 3, "u": 1, "v": 8, "w": 1}  # all the candidates that there are


@pytest.mark.parametrize("ratio", [50, 80, 90, 95])
@pytest.mark.parametrize("name", ["disparse_static", "snip"])
def test_a_mask_meets_the_ratio_in_bounds_of_erk(tiny, name, ratio):
    net = tiny("a", "b", "c")
    plan = make_plan(method(name), Settings(ratio=ratio, budget="waterfill", score_init="own"))
    mask = make_mask(net.model, plan, electorate(net), list(enumerate(net.batches)))
    erk = counts(make_budgets(net.model, plan, net.owners)[0])
    kept = {of: int(m.sum()) for of, m in mask.items()}
    assert sum(kept.values()) == sum(erk.values()) == keep_count(sum(m.numel() for m in mask.values()), ratio)
    assert all(-(-erk[of] // 2) <= kept[of] <= 2 * erk[of] for of in erk)
    assert kept != erk
    voters = electorate(net).voters(plan.voters)
    scores = score(net.model, voters, enumerate(net.batches), "snip")
    again = choose_mask(net.model, plan, net.owners, scores)
    assert all(torch.equal(mask[of], again[of]) for of in mask)


def test_waterfill_goes_with_rounds_protection_and_shuffling(tiny):
    net = tiny("a", "b")
    mask = mask_of(net, "disparse_static", budget="waterfill", rounds=4, protect=("branch",), ratio=80)
    assert mask["branch.weight"].all() and count(mask) == keep_count(256, 80)
    plain = mask_of(net, "disparse_static", budget="waterfill")
    shuffled = mask_of(net, "disparse_static", budget="waterfill", shuffle=True)
    assert {n: int(m.sum()) for n, m in plain.items()} == {n: int(m.sum()) for n, m in shuffled.items()}


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("random", {}, "not for method random with criterion random: choose budget 'erk'"),
        ("rigl", {}, "not for method rigl with criterion random"),
        ("top_kast", {}, "not for method top_kast with criterion magnitude"),
        ("imp", {}, "not for method imp with criterion magnitude"),
        ("snip", {"granularity": "kernel"}, "counts single weights, not granularity kernel"),
    ],
)
def test_waterfill_needs_scores_of_single_weights(name, more, message):
    settings = Settings(budget="waterfill")
    for field, value in more.items():
        object.__setattr__(settings, field, value)
    with pytest.raises(ValueError, match=message):
        make_plan(method(name), settings)


# ------------------------------------------------------------------ trunk and heads
SHAPES = {"t1": (10, 10), "h1": (10, 5), "t2": (20, 10), "h2": (5, 10)}  # 300 shared, 100 of heads
TRUNK = frozenset({"t1", "t2"})


def test_a_split_keeps_the_share_to_one_weight():
    assert split_budget("global", SHAPES, 41, frozenset(), TRUNK, 0.4) == (
        Pool(("t1", "t2"), 16),
        Pool(("h1", "h2"), 25),
    )
    parts = {name: SHAPES[name] for name in ("t1", "t2")}, {name: SHAPES[name] for name in ("h1", "h2")}
    assert split_budget("erk", SHAPES, 40, frozenset(), TRUNK, 0.6) == (
        *make_budget("erk", parts[0], 24),
        *make_budget("erk", parts[1], 16),
    )


def test_a_split_gives_way_to_sizes_and_protected_layers():
    kept = [counts(split_budget("global", SHAPES, keep, frozenset(), TRUNK, 0.2)) for keep in (400, 399, 200)]
    assert [(of["t1"], of["h1"]) for of in kept] == [(300, 100), (299, 100), (100, 100)]
    protected = split_budget("global", SHAPES, 120, frozenset({"t1"}), TRUNK, 0.2)
    assert protected == (Pool(("t1",), 100), Pool(("t2",), 0), Pool(("h1", "h2"), 20))


@pytest.mark.parametrize("budget", ["global", "erk", "waterfill"])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.75])
def test_a_mask_keeps_the_share_of_the_trunk(tiny, budget, share):
    net = tiny("a", "b")
    plan = make_plan(method("disparse_static"), TrunkSettings(ratio=75, budget=budget, trunk_share=share))
    mask = make_mask(net.model, plan, electorate(net), list(enumerate(net.batches)))
    shared = [name for name, of in net.owners.items() if len(of) > 1]
    assert count({name: mask[name] for name in shared}) == round(share * 64)
    assert count(mask) == 64


class TrunkSettings(Settings):
    """As Settings, with the share of the trunk."""

    def __init__(self, trunk_share, **more):
        super().__init__(**more)
        object.__setattr__(self, "trunk_share", trunk_share)


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        (
            "ab",
            {"ratio": 50, "trunk_share": 0.1},
            "asks for 13 of the 128 kept .* 88 .0.69. is the nearest",
        ),
        ("a", {"trunk_share": 0.5}, "needs layers of several tasks and of one: none is of several tasks"),
        ("ab", {"trunk_share": 0.5, "scope": "backbone"}, "of one: none is of one task alone"),
        ("ab", {"trunk_share": 1.0}, "trunk share 1.0 is not a share of the kept weights"),
        (
            "ab",
            {"trunk_share": 0.5, "keep_ratio": 0.1},
            "divides a budget .*, and keep ratio 0.1 has none",
        ),
    ],
)
def test_an_impossible_share_is_refused(tiny, tasks, settings, message):
    net = tiny(*tasks)
    with pytest.raises(ValueError, match=message):
        make_room(net.model, make_plan(method("snip"), TrunkSettings(**settings)), net.owners)


def test_a_share_of_multiply_adds_is_called_so(tiny):
    """17,472 of them for three images: 75 a weight of the three convolutions, 3 of a head."""
    net = tiny("a", "b")
    asked = {"ratio": 50, "trunk_share": 0.1, "ratio_of": "macs"}
    with pytest.raises(
        ValueError, match="asks for 874 of the 8736 kept multiply-adds in .* 7464 .0.8544. is"
    ):
        sparsify(net.model, net.losses, net.batches, **asked)
    mask = sparsify(net.model, net.losses, net.batches, 80, trunk_share=0.75, ratio_of="macs", floor=0).mask
    shared = count({name: mask[name] for name in ("stem.weight", "trunk.weight")})
    assert 75 * shared == 2550  # of round(0.75 * 3494) = 2620, to less than one weight
