"""Floors beside protected layers and a trunk with a share of its own: nobody pays who must not."""

import pytest

from prune_utils import Pool, Schedule, sparsify
from prune_utils.floors import Floors, floor_counts, lifted


def kept(sparsity):
    return {name: int(of.sum()) for name, of in sparsity.mask.items()}


def trunk(counts):
    """Of tiny("a", "b"): the layers that both tasks own."""
    return counts["stem.weight"] + counts["trunk.weight"]


def test_a_protected_layer_has_its_size_as_floor():
    sizes, budget = {"a": 10, "b": 10}, (Pool(("a",), 10), Pool(("b",), 2))
    assert floor_counts(sizes, budget, 0.5, ["a", "b"]) == {"a": 3, "b": 3}
    assert floor_counts(sizes, budget, 0.5, ["b"], protected=["a"]) == {"a": 10, "b": 3}


def test_layers_pay_within_their_part():
    budget = tuple(Pool((name,), keep) for name, keep in {"a": 5, "b": 1, "c": 9, "d": 0}.items())
    least = {"b": 3, "d": 2}
    assert [pool.keep for pool in lifted(budget, Floors(least))] == [5, 3, 5, 2]
    assert [pool.keep for pool in lifted(budget, Floors(least, frozenset("ab")))] == [3, 3, 7, 2]
    with pytest.raises(ValueError, match="the floor asks for 7 weights, more than the 6 to keep"):
        lifted(budget, Floors({"b": 7}, frozenset("ab")))


@pytest.mark.parametrize("budget", ["erk", "uniform", "waterfill", "global"])
@pytest.mark.parametrize("floor", [0.1, 0.5])
def test_a_protected_layer_pays_for_no_floor(tiny, budget, floor):
    net = tiny("a", "b")
    found = kept(
        sparsify(net.model, net.losses, net.batches, 20, budget=budget, protect=["trunk"], floor=floor)
    )
    assert found["trunk.weight"] == 144 and sum(found.values()) == 205


def test_what_is_left_beside_a_protected_layer_must_hold_its_floors(tiny):
    """77 of 256 stay, 72 of them protected: a floor of all of the density asks for 72 + 44 + 5 + 4 + 4."""
    for budget in ("erk", "uniform", "waterfill"):
        net = tiny("a", "b")
        with pytest.raises(ValueError, match="the floor asks for 129 weights, more than the 77 to keep"):
            sparsify(net.model, net.losses, net.batches, 70, budget=budget, protect=["stem"], floor=1)


@pytest.mark.parametrize("budget", ["erk", "uniform", "waterfill", "global"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_floor_moves_nothing_between_trunk_and_rest(tiny, budget, share):
    net = tiny("a", "b")
    asked = {"budget": budget, "trunk_share": share, "floor": 0.3}
    found = kept(sparsify(net.model, net.losses, net.batches, 90, **asked))
    assert (trunk(found), sum(found.values())) == (round(share * 26), 26)


def test_a_mask_that_moves_begins_with_its_share_too(tiny):
    net = tiny("a", "b")
    asked = {"budget": "erk", "trunk_share": 0.5, "floor": 0.5, "schedule": Schedule(4, 2)}
    found = kept(sparsify(net.model, net.losses, net.batches, 80, "rigl", **asked))
    assert (trunk(found), sum(found.values())) == (26, 51)


def test_a_part_that_cannot_hold_its_floors_is_refused(tiny):
    """Three layers of one task alone, and 2 of 51 weights for them."""
    for budget in ("erk", "uniform", "waterfill", "global"):
        net = tiny("a", "b")
        with pytest.raises(ValueError, match="the floor asks for 3 weights, more than the 2 to keep"):
            sparsify(net.model, net.losses, net.batches, 80, budget=budget, trunk_share=0.96)
