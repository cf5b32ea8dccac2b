import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_utils import BUDGETS, Pool, erk_budget, global_budget, keep_count, make_budget, uniform_budget


@pytest.mark.parametrize(
    ("total", "ratio", "keep"),
    [
        (1000, 90, 100),
        (1000, 92.5, 75),
        (1000, 99.9, 1),
        (100, 0, 100),
        (10, 75, 2),  # 2.5: half to even
        (30, 75, 8),  # 7.5
        (67_630_320, 99.9, 67_630),
        (10**15 + 5, 92.5, 75_000_000_000_000),
    ],
)
def test_keep_count(total, ratio, keep):
    assert keep_count(total, ratio) == keep


@pytest.mark.parametrize("ratio", [100, -1, "abc", float("nan"), float("inf"), None, True, 100.5])
def test_keep_count_names_a_ratio_that_is_none(ratio):
    with pytest.raises(ValueError, match=f"ratio {ratio!r} is not a number from 0"):
        keep_count(100, ratio)


def test_keep_count_keeps_something():
    with pytest.raises(ValueError, match="99.9 leaves none of 100"):
        keep_count(100, 99.9)


SHAPES = {"a": (2, 1), "b": (4, 10), "c": (2, 4)}  # 2, 40 and 8 weights


def test_global_is_one_pool():
    assert global_budget(SHAPES, 7) == (Pool(("a", "b", "c"), 7),)


def test_uniform_shares_by_largest_remainder():
    # shares of 9 in 50: 0.36, 7.2, 1.44
    assert uniform_budget(SHAPES, 9) == (Pool(("a",), 0), Pool(("b",), 7), Pool(("c",), 2))


def test_erk_by_hand():
    # density of (4, 10) and (2, 4) in proportion (14 / 40) ** .9 : (6 / 8) ** .9; (2, 1) would exceed 1
    shapes = {"b": (4, 10), "c": (2, 4)}
    b, c = (14 / 40) ** 0.9 * 40, (6 / 8) ** 0.9 * 8
    assert erk_budget(shapes, 10) == (
        Pool(("b",), round(10 * b / (b + c))),
        Pool(("c",), round(10 * c / (b + c))),
    )
    assert [pool.keep for pool in erk_budget(SHAPES, 30)] == [2, 20, 8]  # a and then c are full


def test_erk_leaves_a_layer_nothing_whose_share_rounds_to_nothing():
    assert [pool.keep for pool in erk_budget({"a": (32, 16), "b": (32, 32), "c": (4, 32)}, 2)] == [1, 1, 0]


def test_erk_keeps_densities_in_proportion():
    shapes = {"x": (64, 32, 3, 3), "y": (128, 64, 3, 3), "z": (256, 128, 1, 1)}
    density = {p.names[0]: p.keep / math.prod(shapes[p.names[0]]) for p in erk_budget(shapes, 12_000)}
    raw = {name: (sum(shape) / math.prod(shape)) ** 0.9 for name, shape in shapes.items()}
    for name in shapes:
        assert density[name] / density["x"] == pytest.approx(raw[name] / raw["x"], rel=1e-3)


@given(
    shapes=st.dictionaries(
        st.text("abcdef", min_size=1, max_size=3),
        st.lists(st.integers(1, 9), min_size=2, max_size=4).map(tuple),
        min_size=1,
        max_size=8,
    ),
    share=st.floats(0, 1),
    kind=st.sampled_from(sorted(BUDGETS)),
)
def test_every_budget_is_exact_and_fits(shapes, share, kind):
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    keep = round(share * sum(sizes.values()))
    budget = make_budget(kind, shapes, keep)
    assert sum(pool.keep for pool in budget) == keep
    assert [name for pool in budget for name in pool.names] == list(shapes)
    assert all(0 <= pool.keep <= sum(sizes[name] for name in pool.names) for pool in budget)


def test_protected_layers_are_dense_and_count():
    assert make_budget("global", SHAPES, 10, frozenset({"c"})) == (Pool(("c",), 8), Pool(("a", "b"), 2))
    budget = make_budget("uniform", SHAPES, 13, frozenset({"c"}))
    assert sum(pool.keep for pool in budget) == 13
    assert make_budget("erk", SHAPES, 50, frozenset(SHAPES)) == (Pool(("a", "b", "c"), 50),)
    with pytest.raises(ValueError, match="protected layers hold 8 weights, more than the 7 of 50 to keep"):
        make_budget("global", SHAPES, 7, frozenset({"c"}))


@pytest.mark.parametrize("rule", [uniform_budget, erk_budget])
@pytest.mark.parametrize("keep", [-1, 51])
def test_a_rule_by_itself_refuses_what_cannot_be_kept(rule, keep):
    with pytest.raises(ValueError, match=f"keep {keep} is not from 0 to the 50 weights"):
        rule(SHAPES, keep)


def test_choices_are_named():
    with pytest.raises(ValueError, match="budget 'gloabl' is not one of erk, global, uniform"):
        make_budget("gloabl", SHAPES, 7)
    with pytest.raises(ValueError, match="keep 51 is more than the 50 weights"):
        make_budget("erk", SHAPES, 51)


@pytest.mark.parametrize("rule", [uniform_budget, erk_budget, global_budget])
def test_a_layer_without_elements_keeps_none(rule):
    budget = rule({"none": (0, 4), **SHAPES, "scalar": ()}, 9)
    assert sum(pool.keep for pool in budget) == 9
    assert [pool.keep for pool in budget if pool.names == ("none",)] in ([0], [])


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ((Pool(("a", "b", "c"), 8),), "budget 'mine' keeps 8 weights in its pools, and is asked for 9"),
        ((Pool(("a", "b"), 9),), "budget 'mine' names layer 'c' 0 times in its pools, not once"),
        (
            (Pool(("a", "b", "c"), 4), Pool(("b",), 5)),
            "budget 'mine' names layer 'b' 2 times in its pools, not once",
        ),
        ((Pool(("a", "b", "c", "d"), 9),), "budget 'mine' names layer 'd', which is none of its 3"),
    ],
)
def test_a_budget_of_ones_own_is_counted(monkeypatch, pools, said):
    monkeypatch.setitem(BUDGETS, "mine", lambda shapes, keep: pools)
    with pytest.raises(ValueError, match=f"^{said}$"):
        make_budget("mine", SHAPES, 9)
