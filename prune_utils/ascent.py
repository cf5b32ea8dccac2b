"""The smallest network that keeps a limit for every task: a search that knows neither network nor data.

Sizes stand on a ladder. Level 0 is the network as it is, against which limits are: it loses nothing and is
kept without a round. A round goes down a stride of levels; where a limit breaks, the tasks that broke theirs
get a larger factor for their rank (the weighted arbiter) and the same level is tried again, until limits hold
or nothing more can be given; then the level is given up and the stride halves (bisection), until neighbours
of the ladder are told apart. Where a task has room, its factor falls again. So the factors are multipliers of
a constrained problem, found by dual ascent in fixed steps.

What is proven, of a fixed table of drops by level and factors in which drops do not shrink from level to
level, and a task's drop does not grow with its own factor nor shrink with another's: the search ends at the
smallest size at which any factors on its grid keep all limits, at level 0 where there is none, so looser
limits never give a larger network. Rising one step where a limit breaks never passes the least factors that
keep all limits (the argument of Yates, "A framework for uplink power control in cellular radio systems",
1995), and only factors' ratios matter, so that a level is lost as soon as every task asked for more. Without
factors (`turns=0`) looser limits never give a larger network in any table. Neither holds where training or
noise makes other tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from .text import not_one_of

ROOM = 0.5  # a task whose drops are below this share of their limits gives way


class Trial(NamedTuple):
    """What to try. number: of the round, from 0; keep: weights, or multiply-adds where sizes count those;
    factors: of the weighted arbiter, by task."""

    number: int
    level: int
    keep: int
    factors: dict[str, float]


class Round(NamedTuple):
    """A trial and what came of it. drops: by limit, percent; broken: limits that were, () = it is kept."""

    trial: Trial
    drops: dict[str, float]
    broken: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether every limit was."""
        return not self.broken


def size_ladder(total: int, resolution: float, smallest: float = 0.1, protected: int = 0) -> tuple[int, ...]:
    """Weights kept at each level: all, then each level `resolution` percent of the free ones fewer.

    smallest: percent of the free weights at which the ladder ends. protected: weights that always stay.
    Raises ValueError for percentages that are not between 0 and 100.

    >>> size_ladder(1000, 50, smallest=10)
    (1000, 500, 250, 125)
    """
    for what, value in (("resolution", resolution), ("smallest", smallest)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 100:
            raise ValueError(f"{what} {value!r} is not a number between 0 and 100 (percent)")
    free, sizes, share = total - protected, [total], 1.0
    while True:
        share *= 1 - resolution / 100
        keep = protected + round(free * share)
        if 100 * share < smallest or keep <= protected:
            return tuple(sizes)
        if keep < sizes[-1]:
            sizes.append(keep)


def check_limits(limits: Mapping[str, float], tasks: Iterable[str]) -> None:
    """ValueError unless every task has a limit, and every limit a task and a number of at least 0.

    A limit is named by its task, or "task.what" for one measure of it; infinity lets the task fall.
    """
    tasks = list(tasks)
    for name, limit in limits.items():
        if task_of(name) not in tasks:
            raise ValueError(not_one_of("limit of task", task_of(name), tasks))
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 0:
            raise ValueError(f"limit {limit!r} of {name!r} is not a number of at least 0 (percent)")
    without = [task for task in tasks if task not in map(task_of, limits)]
    if without:
        raise ValueError(f"task {without[0]!r} has no limit: infinity lets it fall as it likes")


def task_of(limit: str) -> str:
    """The task that a limit is of."""
    return limit.partition(".")[0]


@dataclass
class Ascent:
    """The state of a search: ask `next`, try it, `tell` what the drops were, until `next` gives None.

    limits: "task" or "task.what" -> percent that may be lost. sizes: what is kept at each level, falling from
    the whole network's, which is never tried.
    stride: levels that a round goes down until the first one is given up. turn: what a rise multiplies a
    factor by, above 1. turns: rises that a task may have above the one with least, 0 = all factors stay 1.
    """

    limits: Mapping[str, float]
    tasks: Sequence[str]
    sizes: Sequence[int]
    stride: int = 16
    turn: float = 1.5
    turns: int = 4
    rounds: list[Round] = field(default_factory=list, init=False)
    level: int = field(default=0, init=False)  # the smallest that is kept
    ceiling: int = field(default=0, init=False)  # the largest level not yet given up, plus 1
    _held: dict[str, int] = field(init=False)  # rises that the next level starts with
    _tried: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        check_limits(self.limits, self.tasks)
        if len(self.sizes) < 2 or any(
            low >= high for high, low in zip(self.sizes, self.sizes[1:], strict=False)
        ):
            raise ValueError("sizes must fall from level to level, and there must be one below the first")
        for what, value, least in (("stride", self.stride, 1), ("turns", self.turns, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{what} {value!r} is not a whole number of at least {least}")
        if not 1 < self.turn < math.inf:
            raise ValueError(f"turn {self.turn!r} is not a number above 1")
        self.ceiling = len(self.sizes)
        self._held = dict.fromkeys(self.tasks, 0)
        self._tried = dict(self._held)

    def next(self) -> Trial | None:
        """What to try now; None = the search is over."""
        level = self._target()
        if level is None:
            return None
        factors = {task: self.turn**rises for task, rises in self._tried.items()}
        return Trial(len(self.rounds), level, self.sizes[level], factors)

    def _target(self) -> int | None:
        if self.level + 1 >= self.ceiling:
            return None
        if self.ceiling == len(self.sizes):
            return min(self.level + self.stride, self.ceiling - 1)
        return self.level + (self.ceiling - self.level) // 2

    def tell(self, drops: Mapping[str, float]) -> Round:
        """What came of the last trial: the drop of every limit, or its bound; NaN breaks it.

        Raises ValueError where there is no trial, or a limit is missing.
        """
        trial = self.next()
        if trial is None:
            raise ValueError("the search is over, nothing was to be tried")
        missing = [name for name in self.limits if name not in drops]
        if missing:
            raise ValueError(f"the drop of limit {missing[0]!r} is missing")
        seen = {name: float(drops[name]) for name in self.limits}
        broken = tuple(name for name, limit in self.limits.items() if not seen[name] <= limit)
        done = Round(trial, seen, broken)
        self.rounds.append(done)
        if broken:
            self._rise({task_of(name) for name in broken}, trial.level)
        else:
            self.level = trial.level
            self._held = {task: self._eased(task, seen) for task in self.tasks}
            self._tried = dict(self._held)
        return done

    def _rise(self, tasks: set[str], level: int) -> None:
        """Larger factors for the tasks that broke a limit, or the level is given up."""
        risen = {task: rises + (task in tasks) for task, rises in self._tried.items()}
        # only ratios matter: where every task asks for more, there is nothing to take it from
        if min(risen.values()) > 0 or max(risen.values()) > self.turns:
            self.ceiling, self._tried = level, dict(self._held)
        else:
            self._tried = risen

    def _eased(self, task: str, drops: Mapping[str, float]) -> int:
        """The task's rises for the next level: one fewer where it has room."""
        rises = self._tried[task]
        room = all(
            drops[name] <= ROOM * limit for name, limit in self.limits.items() if task_of(name) == task
        )
        return max(0, rises - 1) if room else rises

    @property
    def best(self) -> Round | None:
        """The kept round with the fewest weights; None where no smaller network keeps the limits."""
        return next((done for done in reversed(self.rounds) if done.kept), None)

    def nearest(self) -> tuple[Round, str]:
        """The round that came nearest to keeping its limits and did not, and the limit that it broke.

        Of several limits the one that it exceeds by most, in percent; NaN is further than anything. Raises
        ValueError where no round broke a limit.
        """

        def excess(done: Round, name: str) -> float:
            over = done.drops[name] - self.limits[name]
            return math.inf if math.isnan(over) else over

        broken = [(max(done.broken, key=partial(excess, done)), done) for done in self.rounds if done.broken]
        if not broken:
            raise ValueError("no round of the search broke a limit")
        name, done = min(broken, key=lambda one: excess(one[1], one[0]))
        return done, name

    def state_dict(self) -> dict[str, Any]:
        """Plain values: what was told. All else follows from it."""
        return {"drops": [done.drops for done in self.rounds]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Tell the same again. Raises ValueError for what no search of these limits can have been told."""
        drops = state.get("drops")
        if not isinstance(drops, list) or not all(isinstance(of, dict) for of in drops):
            raise ValueError("the state of the search holds no drops of its rounds")
        self.rounds.clear()
        self.level = 0
        self.__post_init__()
        for of in drops:
            self.tell(of)


def search(
    ascent: Ascent,
    attempt: Callable[[Trial], Mapping[str, float]],
    done: Callable[[Round], object] = lambda _: None,
) -> Round | None:
    """Run a search to its end, from wherever it stands; the best round, None where no smaller network keeps
    the limits.

    attempt(trial) prunes the last kept network to `trial.keep` weights with `trial.factors`, trains it, and
    gives every limit's drop in percent, or a bound of it. done(round) hears of every round: where it is not
    kept, the network should be taken back.

    >>> ascent = Ascent({"a": 1.0, "b": 1.0}, ("a", "b"), size_ladder(1000, 10))
    >>> def table(trial):  # a falls with size, b twice as fast; a factor shifts the burden
    ...     lost, shift = 0.2 * trial.level, trial.factors["b"] / trial.factors["a"]
    ...     return {"a": lost * shift, "b": 2 * lost / shift}
    >>> best = search(ascent, table)
    >>> best.trial.keep, best.trial.factors
    (729, {'a': 1.0, 'b': 1.5})
    """
    while (trial := ascent.next()) is not None:
        done(ascent.tell(attempt(trial)))
    return ascent.best
