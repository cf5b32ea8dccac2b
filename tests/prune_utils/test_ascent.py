"""The search: exact values, and that it ends at the optimum where that is proven."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_utils.ascent import Ascent, Trial, search, size_ladder

SIZES = size_ladder(10_000, 5, smallest=20)  # 32 levels
TURNS = 2


def trials(ascent):
    return [(done.trial.level, done.kept) for done in ascent.rounds]


def rises(trial, turn=1.5):
    return {task: round(math.log(factor, turn)) for task, factor in trial.factors.items()}


# ------------------------------------------------------------------ by hand
def test_the_ladder_falls_in_equal_proportion_and_ends_above_the_smallest():
    assert size_ladder(1000, 10, smallest=50) == (1000, 900, 810, 729, 656, 590, 531)
    assert size_ladder(1000, 50, smallest=20, protected=200) == (1000, 600, 400)
    assert size_ladder(3, 10, smallest=1) == (3, 2, 1)  # equal sizes stand once


def test_strides_then_halves_until_neighbours_are_told_apart():
    ascent = Ascent({"a": 10.0}, ("a",), SIZES, stride=8)
    best = search(ascent, lambda trial: {"a": float(trial.level)})
    assert best.trial.level == 10
    assert trials(ascent) == [(8, True), (16, False), (12, False), (10, True), (11, False)]
    assert [done.trial.number for done in ascent.rounds] == list(range(5))


def test_a_ladder_that_is_kept_to_its_end():
    ascent = Ascent({"a": 1.0}, ("a",), SIZES, stride=12)
    assert search(ascent, lambda trial: {"a": 0.5}).trial.keep == SIZES[-1]
    assert trials(ascent) == [(12, True), (24, True), (31, True)]


def test_factors_rise_with_broken_limits_and_fall_with_room():
    said = [
        {"a": 2.0, "b": 0.0, "c": 0.0},  # a breaks: it rises, the level is tried again
        {"a": 2.0, "b": 0.9, "c": 0.0},  # and again
        {"a": 0.9, "b": 0.9, "c": 0.0},  # kept, without room for a: factors stay
        {"a": 0.9, "b": 3.0, "c": 0.0},  # b rises
        {"a": 0.4, "b": 0.9, "c": 0.0},  # kept: a has room, and gives way by one step
        {"a": 2.0, "b": 3.0, "c": 0.0},  # both rise
        {"a": 0.9, "b": 0.9, "c": 1.1},  # nobody is left to take from: the level is given up
    ]
    ascent = Ascent({"a": 1.0, "b": 1.0, "c": 1.0}, ("a", "b", "c"), SIZES, stride=4, turn=2.0)
    for told in said:
        ascent.tell(told)
    assert [tuple(done.trial.factors.values()) for done in ascent.rounds] == [
        (1, 1, 1),
        (2, 1, 1),
        (4, 1, 1),
        (4, 1, 1),
        (4, 2, 1),
        (2, 2, 1),
        (4, 4, 1),
    ]
    assert [done.trial.level for done in ascent.rounds] == [4, 4, 4, 8, 8, 12, 12]
    assert ascent.next() == Trial(7, 10, SIZES[10], {"a": 2.0, "b": 2.0, "c": 1.0})


def test_a_factor_has_an_end_and_every_broken_measure_counts():
    ascent = Ascent({"a.x": 1.0, "a.y": 9.0, "b": 9.0}, ("a", "b"), SIZES, stride=2, turns=TURNS)
    search(ascent, lambda trial: {"a.x": 2.0 * trial.level, "a.y": 0.0, "b": 0.0})
    assert [(done.trial.level, rises(done.trial)["a"]) for done in ascent.rounds] == [
        *[(2, 0), (2, 1), (2, 2)],
        *[(1, 0), (1, 1), (1, 2)],
    ]
    assert ascent.rounds[0].broken == ("a.x",)


def test_all_sizes_down_to_the_finest_step_are_tried_before_nothing_is_kept_and_nan_breaks_any():
    for value in (1.5, math.nan):
        ascent = Ascent({"a": 1.0, "b": 1.0}, ("a", "b"), SIZES, stride=8, turns=0)
        assert search(ascent, lambda trial, value=value: {"a": value, "b": 0.0}) is None
        assert trials(ascent) == [(8, False), (4, False), (2, False), (1, False)]
        assert ascent.level == 0 and ascent.best is None


def test_the_network_as_it_is_is_kept_without_a_round_and_a_smaller_one_may_be_better():
    ascent = Ascent({"a": 1.0}, ("a",), SIZES, stride=8, turns=0)
    assert ascent.level == 0 and ascent.next() == Trial(0, 8, SIZES[8], {"a": 1.0})
    best = search(ascent, lambda trial: {"a": 0.5 if trial.level == 1 else 3.0})
    assert (best.trial.number, best.trial.level) == (3, 1)


def test_the_nearest_is_the_round_whose_worst_break_is_smallest():
    ascent = Ascent({"a": 1.0, "b.x": 4.0, "b.y": math.inf}, ("a", "b"), SIZES, stride=8, turns=0)
    said = [
        {"a": 1.5, "b.x": 7.0, "b.y": 0.0},  # 3 above
        {"a": 3.0, "b.x": 4.5, "b.y": 0.0},  # 2 above: the nearest
        {"a": 1.1, "b.x": 4.0, "b.y": math.nan},  # nobody knows how far
        {"a": 0.0, "b.x": 6.5, "b.y": 99.0},
    ]
    with pytest.raises(ValueError, match="no round of the search broke a limit"):
        ascent.nearest()
    for told in said:
        ascent.tell(told)
    assert ascent.next() is None and ascent.nearest() == (ascent.rounds[1], "a")
    ascent.load_state_dict({"drops": said[:1]})
    assert ascent.nearest() == (ascent.rounds[0], "b.x")
    ascent.load_state_dict({"drops": said[2:3]})
    assert ascent.nearest() == (ascent.rounds[0], "b.y")


def test_infinity_lets_a_task_fall():
    ascent = Ascent({"a": math.inf, "b": 4.0}, ("a", "b"), SIZES, turns=TURNS)
    best = search(ascent, lambda trial: {"a": 99.0, "b": trial.level * 1.5 ** -rises(trial)["b"]})
    assert (best.trial.level, rises(best.trial)) == (9, {"a": 0, "b": 2})


def test_a_state_told_again_goes_on_alike():
    def table(trial):
        lost, shift = 0.3 * trial.level, trial.factors["b"] / trial.factors["a"]
        return {"a": lost * shift, "b": 2 * lost / shift}

    limits = {"a": 2.0, "b": 1.0}
    whole = Ascent(limits, ("a", "b"), SIZES)
    best = search(whole, table)
    for count in range(len(whole.rounds) + 1):
        part = Ascent(limits, ("a", "b"), SIZES)
        part.load_state_dict({"drops": whole.state_dict()["drops"][:count]})
        assert search(part, table) == best and part.rounds == whole.rounds
    with pytest.raises(ValueError, match="the search is over"):
        whole.tell({"a": 0, "b": 0})
    with pytest.raises(ValueError, match="the search is over"):
        Ascent(limits, ("a", "b"), SIZES).load_state_dict(
            {"drops": [*whole.state_dict()["drops"], {"a": 0, "b": 0}]}
        )
    with pytest.raises(ValueError, match="holds no drops"):
        part.load_state_dict({})


# ------------------------------------------------------------------ the property
class Conflict:
    """A table of the proven shape, of any number of tasks: what one task's factor gives it takes from all
    others, by any amounts; and size costs every task, by any amounts."""

    def __init__(self, tasks, seed):
        chance = random.Random(seed)
        self.tasks = tuple(f"t{number}" for number in range(tasks))

        def rising(length, top):
            return list(
                itertools.accumulate(chance.choice((0, 0, 1)) * chance.uniform(0, top) for _ in range(length))
            )

        self.by_level = {task: rising(len(SIZES), 0.5) for task in self.tasks}
        self.by_shift = {pair: rising(2 * TURNS + 1, 3.0) for pair in itertools.permutations(self.tasks, 2)}

    def drops(self, level, rises):
        return {
            task: self.by_level[task][level]
            + sum(
                self.by_shift[task, other][TURNS + rises[other] - rises[task]]
                for other in self.tasks
                if other != task
            )
            for task in self.tasks
        }

    def search(self, limits, turns=TURNS, stride=8):
        ascent = Ascent(limits, self.tasks, SIZES, stride, turns=turns)
        search(ascent, lambda trial: self.drops(trial.level, rises(trial)))
        return ascent.level

    def optimum(self, limits):
        grid = [
            dict(zip(self.tasks, of, strict=True))
            for of in itertools.product(range(TURNS + 1), repeat=len(self.tasks))
        ]
        fit = [
            level
            for level in range(1, len(SIZES))
            if any(all(drop <= limits[t] for t, drop in self.drops(level, rises).items()) for rises in grid)
        ]
        return max(fit, default=0)


shapes = st.tuples(st.integers(1, 4), st.integers(0, 10**6))
amounts = st.lists(st.floats(0, 15), min_size=4, max_size=4)


@given(shapes, amounts, st.sampled_from((1, 5, 8, 40)))
def test_the_search_ends_at_the_optimum_of_tables_in_which_tasks_conflict(shape, limits, stride):
    table = Conflict(*shape)
    limits = dict(zip(table.tasks, limits, strict=False))
    assert table.search(limits, stride=stride) == table.optimum(limits)


@given(shapes, amounts, amounts)
def test_a_looser_limit_never_gives_a_larger_network_where_tasks_conflict(shape, limits, more):
    table = Conflict(*shape)
    tight = dict(zip(table.tasks, limits, strict=False))
    loose = {task: limit + extra for (task, limit), extra in zip(tight.items(), more, strict=False)}
    assert table.search(loose) >= table.search(tight)


@given(st.integers(1, 4), st.integers(0, 10**6), amounts, amounts)
def test_without_factors_a_looser_limit_never_gives_a_larger_network_whatever_the_table(
    tasks, seed, limits, more
):
    """Not even where drops jump from level to level and depend on the rounds before."""
    names = [f"t{number}" for number in range(tasks)]
    tight = dict(zip(names, limits, strict=False))
    loose = {name: limit + extra for (name, limit), extra in zip(tight.items(), more, strict=False)}

    def level(limits):
        ascent = Ascent(limits, names, SIZES, 8, turns=0)

        def drops(trial):
            history = tuple((done.trial.level, done.kept) for done in ascent.rounds)
            chance = random.Random(f"{seed} {history} {trial.level}")
            return {name: chance.uniform(0, 15) for name in names}

        search(ascent, drops)
        return ascent.level

    assert level(loose) >= level(tight)


def test_the_tables_that_are_searched_need_factors():
    """Else the properties above would say nothing of them."""
    gained = 0
    for seed in range(50):
        table = Conflict(3, seed)
        limits = {"t0": 1.0, "t1": 4.0, "t2": 12.0}
        gained += table.search(limits) > table.search(limits, turns=0)
    assert gained > 5


# ------------------------------------------------------------------ mistakes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"limits": {"a": 1.0}}, "task 'b' has no limit"),
        ({"limits": {"a": 1.0, "bb": 1.0}}, "limit of task 'bb' is not one of a, b; did you mean 'b'?"),
        ({"limits": {"a": -1.0, "b": 1.0}}, "limit -1.0 of 'a' is not a number of at least 0"),
        ({"limits": {"a": math.nan, "b": 1.0}}, "limit nan of 'a' is not a number"),
        ({"limits": {"a": "1", "b": 1.0}}, "limit '1' of 'a' is not a number"),
        ({"sizes": (10, 10)}, "sizes must fall"),
        ({"sizes": ()}, "sizes must fall"),
        ({"sizes": (10,)}, "there must be one below the first"),
        ({"stride": 0}, "stride 0 is not a whole number of at least 1"),
        ({"turns": True}, "turns True is not a whole number of at least 0"),
        ({"turn": 1.0}, "turn 1.0 is not a number above 1"),
    ],
)
def test_mistakes(arguments, said):
    usual = {"limits": {"a": 1.0, "b": 1.0}, "tasks": ("a", "b"), "sizes": SIZES}
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        Ascent(**(usual | arguments))


@pytest.mark.parametrize("percent", [0, 100, -1, math.nan, "5", True])
def test_the_ladders_percentages_are_checked(percent):
    with pytest.raises(ValueError, match=f"resolution {percent!r} is not a number between 0 and 100"):
        size_ladder(100, percent)


def test_a_missing_drop_is_named():
    with pytest.raises(ValueError, match="the drop of limit 'b' is missing"):
        Ascent({"a": 1.0, "b": 1.0}, ("a", "b"), SIZES).tell({"a": 0.0})
