"""From a method's row and the user's settings to a mask: one path for all methods.

`make_plan` resolves and checks every choice before anything is computed; `make_mask` scores, budgets and
chooses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from .arbiters import Arbiter, find_arbiter
from .budgets import BUDGETS, Budget, check_ratio, keep_count, make_budget
from .choosing import keep_by_ratio
from .covering import weight_shapes
from .criteria import find_criterion
from .data import Forward
from .divided import spare
from .floors import Floors, check_floor, floor_counts
from .granularity import WEIGHT, Grain, find_granularity
from .masks import Mask, Scores, check_same_everywhere, dense_mask, matching, prunable, shuffle_within_layers
from .methods import Method, method
from .parameters import find_parameters
from .ranking import rank_fractions
from .rounds import geometric_keeps, nest, progressive
from .scoring import score
from .seeds import generator
from .shards import sharded
from .shards import whole as all_of
from .text import not_one_of
from .voters import VOTERS, Batch, Electorate, Owners, Voter
from .weightings import WEIGHTINGS, find_weighting, weighted_voter


@dataclass(frozen=True)
class Plan:
    """A method's row and the user's settings in one: nothing is left open. Plain values."""

    method: str
    criterion: str
    voters: str
    budget: str
    arbiter: str
    scope: str
    protect: tuple[str, ...]
    ratio: float
    keep_ratio: float | None
    rounds: int
    retrain: bool
    shuffle: bool
    score_init: str
    floor: float = 0.0
    revive: bool = False
    starts: str = "sparse"  # "dense": training makes the mask, and begins with everything
    factors: dict[str, float] | None = None  # task -> what its rank fractions are divided by
    granularity: str = "weight"
    ratio_of: str = "params"
    channel_multiple: int = 1
    uses: dict[str, int] | None = None  # multiply-adds of one weight (multiply_adds.py), where known

    @property
    def counted(self) -> bool:
        """Whether multiply-adds are counted: where the ratio is of them, or units are not single weights."""
        return self.ratio_of == "macs" or self.granularity != WEIGHT.name

    @property
    def removes(self) -> bool:
        """Whether units leave the network, instead of being masked."""
        return find_granularity(self.granularity).removes

    @property
    def grain(self) -> Grain:
        """What is kept or pruned together, and what it costs.

        Raises ValueError where the ratio counts multiply-adds, and nobody has.
        """
        if self.ratio_of == "params":
            return Grain(find_granularity(self.granularity))
        if self.uses is None:
            raise ValueError("ratio_of 'macs' needs the multiply-adds of the network's layers: pass `uses`")
        return Grain(find_granularity(self.granularity), self.uses)

    @property
    def weigh(self) -> Arbiter:
        """The arbiter, with the tasks' factors."""
        return replace(find_arbiter(self.arbiter), factors=self.factors or {})


def xavier_copy(model: nn.Module, seed: int, names: Iterable[str] | None = None) -> nn.Module:
    """A copy of the network with Xavier-normal weights; biases and norms as they are.

    names: of the weights that are drawn, None = all prunable ones. What has fewer than two dimensions has no
    fan, and stays.
    Raises ValueError for a sharded network, which cannot be copied.
    """
    if sharded(model):
        raise ValueError("a sharded network cannot be copied: take its own weights, or draw before sharding")
    found = prunable(model) if names is None else find_parameters(model, names)
    weights = {name: weight for name, weight in found.items() if weight.dim() > 1}

    def draw(name: str) -> nn.Parameter:
        # drawn in main memory, each layer from a stream of its own: alike on all devices, in any order
        drawn = torch.empty(weights[name].shape, dtype=weights[name].dtype)
        nn.init.xavier_normal_(drawn, generator=generator(seed, "xavier", name))
        return nn.Parameter(drawn.to(weights[name].device), weights[name].requires_grad)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # drawing uses one core a layer
        drawn = list(pool.map(draw, weights))
    # what stands in the memo is not copied
    return copy.deepcopy(
        model, {id(weight): new for weight, new in zip(weights.values(), drawn, strict=True)}
    )


# (network, seed, names of the weights that may be drawn anew) -> the network that is scored
INITS: dict[str, Callable[[nn.Module, int, Iterable[str]], nn.Module]] = {
    "own": lambda model, seed, names: model,
    "xavier": xavier_copy,
}

RATIO_OF = ("params", "macs")  # weights, or their multiply-adds

SCOPES: dict[str, Callable[[frozenset[str]], bool]] = {
    "all": lambda tasks: True,
    "backbone": lambda tasks: len(tasks) > 1,  # what several tasks share
}


def make_plan(row: Method, settings: Any) -> Plan:
    """Resolves the method's row and the settings (attributes as in configs.schema.Prune; None = the method's
    own).

    Raises ValueError, naming value and choices, for whatever does not exist or does not go together.
    """
    mask_row = _mask_row(row, settings.start_mask)
    plan = Plan(
        method=row.name,
        criterion=settings.criterion or mask_row.criterion or settings.pt_criterion,
        voters=settings.voters or mask_row.voters,
        budget=settings.budget or mask_row.budget,
        arbiter=settings.arbiter,
        scope=settings.scope,
        protect=tuple(settings.protect),
        ratio=settings.ratio,
        keep_ratio=settings.keep_ratio,
        rounds=mask_row.rounds if settings.rounds is None else settings.rounds,
        retrain=mask_row.retrain,
        shuffle=settings.shuffle,
        score_init=mask_row.score_init or settings.score_init,
        revive=mask_row.revive,
        starts=row.starts,
        factors=dict(settings.factors) or None,
        floor=getattr(settings, "floor", 0.0),  # settings may leave these out
        granularity=getattr(settings, "granularity", WEIGHT.name),
        ratio_of=getattr(settings, "ratio_of", "params"),
        channel_multiple=getattr(settings, "channel_multiple", 1),
    )
    _check_voters(plan)
    by_rank = plan.weigh.standings is rank_fractions
    for what, value, choices in (
        ("budget", plan.budget, BUDGETS),
        ("scope", plan.scope, SCOPES),
        ("score_init", plan.score_init, INITS),
        ("ratio_of", plan.ratio_of, RATIO_OF),
    ):
        if value not in choices:
            raise ValueError(not_one_of(what, str(value), sorted(choices)))
    check_ratio(plan.ratio)
    check_floor(plan.floor)
    geometric_keeps(1, 1, plan.rounds)
    _check_granularity(plan, row, settings.budget)
    if plan.keep_ratio is not None and plan.floor:
        raise ValueError(f"keep ratio {plan.keep_ratio} is a rule without floors, not for floor {plan.floor}")
    if plan.factors and "tasks" not in (plan.voters, row.grow_voters):
        raise ValueError(f"factors weigh tasks, and method {row.name} asks them all as one")
    if plan.keep_ratio is not None and (not by_rank or plan.factors or plan.starts == "dense"):
        raise ValueError(
            f"keep ratio {plan.keep_ratio} is a rule for one ranking before training, not for arbiter "
            f"{plan.arbiter} or method {plan.method}"
        )
    if plan.keep_ratio is not None and (plan.budget != "global" or plan.rounds > 1):
        raise ValueError(
            f"keep ratio {plan.keep_ratio} is a rule for one global round, not for budget {plan.budget} "
            f"and {plan.rounds} rounds"
        )
    return plan


def _check_voters(plan: Plan) -> None:
    """Raises ValueError for an unknown criterion or voters, and where the two do not go together."""
    rule = find_criterion(plan.criterion)
    if plan.voters in VOTERS:
        return
    if plan.voters not in WEIGHTINGS:
        raise ValueError(not_one_of("voters", plan.voters, (*VOTERS, *WEIGHTINGS)))
    find_weighting(plan.voters)
    if plan.starts == "dense" or not rule.needs_gradient:
        raise ValueError(
            f"voters {plan.voters!r} weigh the gradients of the batches that a mask is made from, not for "
            f"method {plan.method} and criterion {plan.criterion}"
        )


def _check_granularity(plan: Plan, row: Method, budget: str | None) -> None:
    """Raises ValueError for a granularity that is none, or that does not go with the rest of the plan.

    budget: the one that was asked for, None = the method's own.
    """
    granularity = find_granularity(plan.granularity)
    name, fixed = granularity.name, granularity.ratio
    if fixed is not None and abs(plan.ratio - fixed) > 1e-6:
        raise ValueError(
            f"granularity {name} removes exactly {fixed:g} %: ratio {fixed:g}, not {plan.ratio:g}"
        )
    if granularity == WEIGHT and plan.ratio_of == "params":
        return
    what = f"granularity {name}" if granularity != WEIGHT else "ratio_of 'macs'"
    if plan.keep_ratio is not None:
        raise ValueError(f"keep ratio {plan.keep_ratio} counts weights one by one, not for {what}")
    if row.course == "top_kast":
        raise ValueError(f"method {row.name} ranks weights one by one, not for {what}")
    if plan.ratio_of == "macs" and plan.budget != "global":
        raise ValueError(
            f"budget {plan.budget!r} gives every layer its share of the weights, and ratio_of 'macs' counts "
            "multiply-adds: choose budget 'global'"
        )
    if granularity.removes:
        _check_removal(plan, row)
    if granularity.whole:
        return
    if plan.ratio_of == "macs":
        raise ValueError(f"granularity {name} fixes the share of every layer: choose ratio_of 'params'")
    if row.grow is not None:
        raise ValueError(
            f"method {row.name} moves weights one by one, and granularity {name} keeps parts full: choose "
            "granularity 'weight', 'kernel' or a block, or a method that does not regrow"
        )
    if plan.shuffle:
        raise ValueError(
            f"shuffle breaks granularity {name}: choose granularity 'weight', 'kernel' or a block"
        )
    if fixed is None and plan.budget == "global":
        raise ValueError(
            f"granularity {name} needs a budget for every layer, and budget 'global' is one for all: choose "
            "budget 'erk' or 'uniform'"
        )
    if fixed is not None and plan.budget not in ("global", "uniform"):
        raise ValueError(f"granularity {name} keeps the same share everywhere, not budget {plan.budget!r}")


def _check_removal(plan: Plan, row: Method) -> None:
    """Raises ValueError where channels cannot be removed as the plan says: once, before training."""
    if row.course != "hold" or row.retrain or row.start == "rewound":
        raise ValueError(
            f"granularity channel removes channels once, from a network that then trains: method {row.name} "
            "does not"
        )
    if plan.rounds > 1:
        raise ValueError(f"granularity channel removes in one round: rounds 1, not {plan.rounds}")
    for what, value, only in (("budget", plan.budget, "global"), ("scope", plan.scope, "all")):
        if value != only:
            raise ValueError(f"granularity channel goes with {what} {only!r}, not {value!r}")
    if plan.shuffle:
        raise ValueError("shuffle permutes masks, and granularity channel leaves none")


def _mask_row(row: Method, start: str | None) -> Method:
    """The row that the first mask is made by: the method's own, or another's for a mask that moves later."""
    if start is None:
        return row
    other = method(start)
    if row.setup != "dynamic" or other.setup != "static":
        raise ValueError(
            f"start mask {start!r} does not go with method {row.name}: a method whose mask moves during "
            "training may start with the mask of one that prunes before it"
        )
    return other


def in_scope(model: nn.Module, owners: Owners, plan: Plan) -> list[str]:
    """Weights with owners that the plan's ratio refers to. Raises ValueError when there is none.

    What the granularity does not divide is not among them and stays dense; nor, where every part of a layer
    keeps the same number, what is protected.
    """
    there = find_parameters(model, owners)
    names = [name for name in there if SCOPES[plan.scope](owners[name])]
    if not names:
        raise ValueError(f"scope {plan.scope!r} holds no prunable weight of this network")
    granularity = find_granularity(plan.granularity)
    if granularity == WEIGHT:
        return names
    shapes = weight_shapes(model, names)
    divided = [name for name in names if granularity.divides(shapes[name])]
    if not granularity.whole:
        protected = matching(names, plan.protect)
        divided = [name for name in divided if name not in protected]
    if not divided:
        raise ValueError(
            f"granularity {plan.granularity} divides no layer of this network that may be pruned"
        )
    return divided


def check_plan(model: nn.Module, plan: Plan, owners: Owners) -> None:
    """Raises ValueError for a scope, a pattern, a ratio or factors that this network cannot meet."""
    tasks = sorted({task for of in owners.values() for task in of})
    for task in plan.factors or ():
        if task not in tasks:
            raise ValueError(f"factor of task {task!r}: the tasks are {', '.join(tasks)}")
    if plan.keep_ratio is None and not plan.removes:
        make_budgets(model, plan, owners)
    else:  # the ratio follows
        matching(in_scope(model, owners, plan), plan.protect)


@dataclass(frozen=True)
class Room:
    """What the plan's ratio refers to in a network: total weights, those protected, and how many stay.

    All of it in multiply-adds where the ratio is of those.
    """

    total: int
    protected: int
    keep: int
    budget: Callable[[int], Budget]  # kept weights, from `protected` to `total` -> a budget of so many


def make_room(model: nn.Module, plan: Plan, owners: Owners) -> Room:
    """Raises ValueError for a scope, a pattern or a ratio that this network cannot meet."""
    if plan.removes:
        raise ValueError(f"granularity {plan.granularity!r} leaves a smaller network, and no mask to be made")
    names, grain = in_scope(model, owners, plan), plan.grain
    shapes = weight_shapes(model, names)
    protected = matching(names, plan.protect) if grain.granularity.whole else frozenset()
    if grain.uses is not None:
        _check_counted(names, grain)
    costs = grain.costs(shapes)
    units = {name: grain.unit_cost(name, shape) for name, shape in shapes.items()}
    sizes = shapes if grain.uses is None else {name: (cost,) for name, cost in costs.items()}
    total, dense = sum(costs.values()), sum(costs[name] for name in protected)

    def budget(keep: int) -> Budget:
        made = make_budget(plan.budget, sizes, keep, protected)
        return grain.granularity.in_units(made, shapes, units)

    room = Room(total, dense, keep_count(total, plan.ratio), budget)
    room.budget(room.keep)  # complains about an impossible end before the rounds
    return room


def _check_counted(names: Iterable[str], grain: Grain) -> None:
    """Raises ValueError that names the first layer whose multiply-adds nobody counted."""
    unknown = [name for name in names if name not in (grain.uses or {})]
    if unknown:
        raise ValueError(
            f"ratio_of 'macs': the multiply-adds of {unknown[0]!r} are not known, which no convolution or "
            "linear layer computes: leave it out (`exclude`, `scope`), or choose ratio_of 'params'"
        )


def make_budgets(model: nn.Module, plan: Plan, owners: Owners) -> tuple[Budget, ...]:
    """One budget per round, the last with exactly the weights that the plan's ratio keeps."""
    room = make_room(model, plan, owners)
    keeps = geometric_keeps(room.total - room.protected, room.keep - room.protected, plan.rounds)
    return nest([room.budget(room.protected + free) for free in keeps])


def make_floors(
    model: nn.Module, plan: Plan, owners: Owners, budgets: Iterable[Budget]
) -> tuple[Floors, ...]:
    """The plan's floor under every layer that a task uses, for each of the budgets."""
    grain, names = plan.grain, in_scope(model, owners, plan)
    shapes = weight_shapes(model, names)
    units = {name: grain.unit_cost(name, shape) for name, shape in shapes.items()}
    used, sizes = [name for name in names if owners[name]], grain.costs(shapes)
    return tuple(floor_counts(sizes, budget, plan.floor, used, units) for budget in budgets)


def make_scorer(
    scored: nn.Module,
    plan: Plan,
    electorate: Electorate,
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]],
    seed: int = 0,
    forward: Forward | None = None,
) -> Callable[[nn.Module], dict[str, Scores]]:
    """What gives the plan's scores of a network, by voter and weight.

    scored: the network before any round. Arguments and errors are those of `make_mask`.
    """
    names = in_scope(scored, electorate.owners, plan)
    asked = _asked(plan, scored, electorate, batches, seed, forward, names)
    voters = [voter.among(names) for voter in asked]
    whole = None
    if plan.revive:
        whole = {name: all_of(w.detach()).clone() for name, w in find_parameters(scored, names).items()}
    few = find_criterion(plan.criterion).batches
    if few is not None and not isinstance(batches, Mapping):
        batches = list(islice(batches, few))

    def score_network(network: nn.Module) -> dict[str, Scores]:
        return score(
            network,
            voters,
            batches,
            plan.criterion,
            seed=seed,
            gather=electorate.gather,
            forward=forward,
            values=whole,
        )

    return score_network


def make_mask(
    model: nn.Module,
    plan: Plan,
    electorate: Electorate,
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]],
    seed: int = 0,
    forward: Forward | None = None,
    *,
    keep: int | None = None,
    among: Mask | None = None,
) -> Mask:
    """The mask that the plan asks for; of a method that prunes in training, the mask that it begins with.

    batches: (number, (input, targets)) pairs that can be read again every round (not an iterator, if rounds >
        1), or a mapping task -> batches of its own. Read only if the criterion needs gradients.
    forward: forward(network, batch) -> predictions, None = network(batch[0]). The model is left untouched.
    keep: so many weights in one round, instead of what the plan's ratio and rounds say. among: the weights
        that are left to choose from, None = all; the others count in the total. Never more than are left.
    Raises ValueError as `make_budgets`, `score` and `choose` do.
    """
    names = in_scope(model, electorate.owners, plan)
    weights = find_parameters(model, names)
    if plan.starts == "dense":
        return dense_mask(model, names)
    scored = INITS[plan.score_init](model, seed, electorate.owners)
    score_network = make_scorer(scored, plan, electorate, batches, seed, forward)
    if plan.keep_ratio is None:
        if keep is None:
            budgets = make_budgets(model, plan, electorate.owners)[: 1 if plan.retrain else None]
        else:
            left = keep if among is None else min(keep, plan.grain.cost(among))
            budgets = (make_room(model, plan, electorate.owners).budget(left),)
        read_once = find_criterion(plan.criterion).batches is not None  # the few that it needs are kept
        if isinstance(batches, Iterator) and len(budgets) > 1 and not read_once:
            raise ValueError("several rounds read the batches several times: pass a list, not an iterator")
        floors = make_floors(model, plan, electorate.owners, budgets)
        mask = progressive(scored, score_network, budgets, plan.weigh, floors, plan.revive, among, plan.grain)
    else:
        scores = spare(scored, score_network(scored))
        mask = _published_rule(scores, plan, plan.keep_ratio, {name: weights[name] for name in names})
    mask = {name: mask[name] for name in names}
    if plan.shuffle:
        shuffled = shuffle_within_layers(plan.grain.units(mask), seed)
        mask = {name: plan.grain.spread(shuffled[name], kept.shape) for name, kept in mask.items()}
    check_same_everywhere(mask, electorate.gather)
    return mask


def _asked(
    plan: Plan,
    scored: nn.Module,
    electorate: Electorate,
    batches: Iterable[tuple[int, Batch]] | Mapping[str, Iterable[Batch]],
    seed: int,
    forward: Forward | None,
    names: list[str],
) -> tuple[Voter, ...]:
    """The plan's voters; where their gradients weigh the tasks, as they are before the first round."""
    if plan.voters not in WEIGHTINGS:
        return electorate.voters(plan.voters)
    if isinstance(batches, Iterator):
        raise ValueError(f"voters {plan.voters!r} read the batches twice: pass a list, not an iterator")
    name = plan.voters
    return (weighted_voter(name, scored, electorate, batches, seed=seed, forward=forward, names=names),)


def _published_rule(
    scores: Mapping[str, Scores], plan: Plan, keep_ratio: float, weights: Mapping[str, Tensor]
) -> Mask:
    """A keep ratio for every voter; protected layers stay dense, are ranked by nobody; orphans are pruned."""
    protected = matching(weights, plan.protect)
    free = {voter: {name: of[name] for name in of if name not in protected} for voter, of in scores.items()}
    unranked = {
        name: torch.full(weight.shape, name in protected, dtype=torch.bool, device=weight.device)
        for name, weight in weights.items()
    }
    return unranked | keep_by_ratio(free, keep_ratio, plan.arbiter)
