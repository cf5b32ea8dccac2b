"""Courses: what happens to a network's mask while it trains, by the word in a method's row.

One function per kind of sparsifier puts the row, the plan and the settings together; none asks for a method
by name. To add one: a line in COURSES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from .data import Forward
from .fan_in import FanInRegrowth
from .gradual import PACES, Gradual, Pace, gradual_budgets, make_pace
from .granularity import FanIn
from .masked import Masked
from .masks import Mask, count, size
from .methods import Method
from .plan import Plan
from .prune import above_floors, make_refill, make_room
from .regrow import Growth, Regrowth, Timing, make_schedule
from .rounds import nest
from .top_kast import TopKast
from .voters import Electorate


class DynamicSettings(Protocol):
    """until and every in steps, or below 1 as fractions of the run; fraction: the first drop; memory: of the
    votes on growth; salient, drop, progress: as of Growth."""

    @property
    def until(self) -> float: ...

    @property
    def every(self) -> float: ...

    @property
    def fraction(self) -> float: ...

    @property
    def memory(self) -> float: ...

    @property
    def salient(self) -> float: ...

    @property
    def drop(self) -> str: ...

    @property
    def progress(self) -> float: ...


class GradualSettings(Protocol):
    """start, end and every in steps, or below 1 as fractions of the run; None = the method's own rhythm.

    fraction: the first drop beside an event. backward: share of all weights that is trained beside the kept.
    """

    @property
    def start(self) -> float | None: ...

    @property
    def end(self) -> float | None: ...

    @property
    def every(self) -> float | None: ...

    @property
    def fraction(self) -> float: ...

    @property
    def backward(self) -> float: ...


@dataclass(frozen=True)
class Course:
    """A training run, as far as its sparsifier must know it.

    mask: what it begins with. optimizer: None = those it is attached to later. electorate: its
    losses are of one step's batch. steps: length of the run.
    known: owners and asked, as of Masked; where tasks vote in training, also batches and numbered, as of
        Regrowth.
    forward: forward(network, batch) -> predictions, None = network(batch[0]).
    """

    model: nn.Module
    mask: Mask
    optimizer: torch.optim.Optimizer | None
    row: Method
    plan: Plan
    electorate: Electorate
    steps: int
    seed: int
    dynamic: DynamicSettings
    gradual: GradualSettings
    known: Mapping[str, Any] = field(default_factory=dict)
    forward: Forward | None = None

    def growth(self, voters: str, criterion: str) -> Growth:
        """Who decides, by what, on the batch of a step."""
        gather = self.electorate.gather
        asked = self.electorate.voters(voters)
        grain = self.plan.grain
        return Growth(asked, criterion, self.plan.weigh, self.seed, gather, self.forward, grain=grain)

    @property
    def regrowth(self) -> Growth | None:
        """Who decides what grows; None for a method that grows nothing."""
        voters = self.plan.grow_voters
        if self.row.grow is None or voters is None:
            return None
        growth, dynamic = self.growth(voters, self.row.grow), self.dynamic
        return replace(
            growth,
            memory=dynamic.memory,
            salient=dynamic.salient,
            drop=dynamic.drop,
            progress=dynamic.progress,
        )

    @property
    def pace(self) -> Pace:
        """Raises ValueError for a rhythm that does not fit into the run."""
        return _pace(self.row, self.steps, self.dynamic, self.gradual)


def _hold(course: Course) -> Masked:
    return Masked(course.model, course.mask, **course.known)


def _regrow(course: Course) -> Masked:
    growth = course.regrowth
    if growth is None:
        raise ValueError(f"method {course.row.name} regrows, and says by no criterion what")
    schedule = _schedule(course.row, course.steps, course.dynamic, course.gradual)
    return regrowth(course.model, course.mask, course.optimizer, schedule, growth, **course.known)


def regrowth(
    model: nn.Module,
    mask: Mask,
    optimizer: torch.optim.Optimizer | None,
    schedule: Timing,
    growth: Growth,
    **known: Any,
) -> Regrowth:
    """The Regrowth that keeps the granularity of the growth; arguments and errors are those of Regrowth."""
    kind = FanInRegrowth if isinstance(growth.grain.granularity, FanIn) else Regrowth
    return kind(model, mask, optimizer, schedule, growth, **known)


def _gradual(course: Course) -> Masked:
    if count(course.mask) < size(course.mask):
        raise ValueError(f"method {course.row.name} starts with a dense network, and this one has a mask")
    pace, plan = course.pace, course.plan
    room = make_room(course.model, plan, course.electorate.owners)
    events = gradual_budgets(PACES[course.row.pace](pace), room.total, room.keep, room.budget)
    ranking = course.growth(plan.voters, plan.criterion)
    budgets, floors = above_floors(course.model, plan, course.electorate.owners, list(events.values()))
    return Gradual(
        course.model,
        course.mask,
        course.optimizer,
        pace,
        dict(zip(events, budgets, strict=True)),
        ranking,
        course.regrowth,
        dict(zip(events, floors, strict=True)),
        make_refill(course.model, plan, course.electorate.owners),
        **course.known,
    )


def _top_kast(course: Course) -> Masked:
    if course.plan.floor:
        raise ValueError(
            f"method {course.row.name} keeps its larger set by magnitude alone, without floors: choose "
            f"budget 'uniform' or 'erk' instead of floor {course.plan.floor}"
        )
    room = make_room(course.model, course.plan, course.electorate.owners)
    forward = room.budget(room.keep)
    more = room.budget(min(room.total, room.keep + round(course.gradual.backward * room.total)))
    backward = nest([more, forward])[0]
    gather = course.electorate.gather
    return TopKast(
        course.model, course.mask, course.optimizer, course.pace, forward, backward, gather, **course.known
    )


def _schedule(row: Method, steps: int, dynamic: DynamicSettings, gradual: GradualSettings) -> Timing:
    return make_schedule(dynamic.until, dynamic.every, dynamic.fraction, steps)


def _pace(row: Method, steps: int, dynamic: DynamicSettings, gradual: GradualSettings) -> Pace:
    start, end, every = rhythm(row, gradual)
    return make_pace(start, end, every, gradual.fraction, steps)


def rhythm(row: Method, gradual: GradualSettings) -> tuple[float, float, float]:
    """Start, end and every as asked for, else the row's own; in steps, or below 1 as fractions of the run."""
    asked = (gradual.start, gradual.end, gradual.every)
    start, end, every = (
        own if other is None else other for own, other in zip(row.rhythm, asked, strict=True)
    )
    return start, end, every


class Kind(NamedTuple):
    """A kind of course: what makes its sparsifier, and when that changes the mask (None = never)."""

    make: Callable[[Course], Masked]
    timing: Callable[[Method, int, DynamicSettings, GradualSettings], Timing] | None = None


COURSES: dict[str, Kind] = {
    "hold": Kind(_hold),
    "regrow": Kind(_regrow, _schedule),
    "gradual": Kind(_gradual, _pace),
    "top_kast": Kind(_top_kast, _pace),
}
"""Courses by the word in a method's row: what makes the sparsifier, and when that changes its mask."""


def check_growth(row: Method, dynamic: DynamicSettings) -> None:
    """Raises ValueError for settings of growth that a method which grows nothing is given."""
    for name, usual in (("memory", 0.0), ("drop", "magnitude"), ("progress", 0.0)):
        value = getattr(dynamic, name)
        if row.grow is None and value != usual:
            raise ValueError(
                f"dynamic.{name} {value} says how weights grow, and method {row.name} grows none: leave it "
                f"out ({usual}), or choose a method that regrows, such as disparse_dynamic"
            )


def make_sparsifier(course: Course) -> Masked:
    """What holds or moves the mask in training; zeroes pruned weights now.

    Raises ValueError for settings that do not fit the run or the network.
    """
    check_growth(course.row, course.dynamic)
    return COURSES[course.row.course].make(course)


def changes(row: Method, steps: int, dynamic: DynamicSettings, gradual: GradualSettings) -> int:
    """How often the mask of a method changes in a run of so many steps. Raises ValueError as its timing."""
    timing = COURSES[row.course].timing
    return 0 if timing is None else sum(map(timing(row, steps, dynamic, gradual).due, range(1, steps + 1)))
