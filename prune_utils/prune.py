"""From a plan to a mask: one path for all methods.

What the plan's ratio refers to in a network, budgets and floors for it, and `make_mask`, which scores and
chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from .budgets import Budget, keep_count, make_budget, split_budget
from .channelwise import Channelwise
from .choosing import keep_by_ratio
from .covering import weight_shapes
from .criteria import find_criterion
from .data import Forward, follow
from .divided import divided, keep_slices, spare
from .filling import REFILLS, Refill
from .floors import NO_FLOORS, Floors, floor_counts
from .granularity import WEIGHT, Grain, find_granularity
from .masks import Mask, Scores, check_same_everywhere, dense_mask, matching, shuffle_within_layers
from .parameters import device_of, find_parameters
from .plan import INITS, SCOPES, Plan, check_factors
from .rounds import geometric_keeps, nest, nest_above, progressive
from .scoring import score
from .seeds import generator
from .shards import whole as all_of
from .voters import Batch, Electorate, Owners, Voter
from .weightings import WEIGHTINGS, weighted_voter


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
        protected = matching(names, plan.protect, model)
        divided = [name for name in divided if name not in protected]
    if not divided:
        raise ValueError(
            f"granularity {plan.granularity} divides no layer of this network that may be pruned"
        )
    return divided


def check_plan(model: nn.Module, plan: Plan, owners: Owners) -> None:
    """Raises ValueError for a scope, a pattern, a ratio or factors that this network cannot meet."""
    tasks = sorted({task for of in owners.values() for task in of})
    check_factors(plan, tasks)
    if plan.keep_ratio is None:
        make_budgets(model, plan, owners)
    else:  # the ratio follows
        matching(in_scope(model, owners, plan), plan.protect, model)


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
        channels = plan.channels
        if plan.ratio_of == "macs":
            _check_counted(in_scope(model, owners, plan), channels.counts)
        return Room(getattr(channels.whole, plan.ratio_of), 0, channels.keep(plan.ratio), channels.budget)
    names, grain = in_scope(model, owners, plan), plan.grain
    shapes = weight_shapes(model, names)
    protected = matching(names, plan.protect, model) if grain.granularity.whole else frozenset()
    if grain.uses is not None:
        _check_counted(names, grain.uses)
    costs = grain.costs(shapes)
    units = grain.unit_costs(shapes)
    sizes = shapes if grain.uses is None else {name: (cost,) for name, cost in costs.items()}
    total, dense = sum(costs.values()), sum(costs[name] for name in protected)

    trunk = shared_layers(names, owners)

    def counted(keep: int) -> Budget:
        if plan.trunk_share is None:
            return make_budget(plan.budget, sizes, keep, protected)
        return split_budget(plan.budget, sizes, keep, protected, trunk, plan.trunk_share)

    def budget(keep: int) -> Budget:
        return grain.granularity.in_units(counted(keep), shapes, units)

    room = Room(total, dense, keep_count(total, plan.ratio), budget)
    # complain about an impossible end before the rounds
    room.budget(room.keep)
    if plan.trunk_share is not None:
        _check_split(plan, counted(room.keep), trunk)
    return room


def shared_layers(names: Iterable[str], owners: Owners) -> frozenset[str]:
    """Those that several tasks own: the trunk."""
    return frozenset(name for name in names if len(owners[name]) > 1)


def _check_split(plan: Plan, budget: Budget, trunk: frozenset[str]) -> None:
    """Raises ValueError where the trunk and the rest cannot keep the shares that are asked for."""
    share, keep = plan.trunk_share or 0.0, sum(pool.keep for pool in budget)
    asked, kept = round(share * keep), sum(pool.keep for pool in budget if trunk.issuperset(pool.names))
    if kept != asked:
        what = "weights" if plan.ratio_of == "params" else "multiply-adds"
        shares = (f"{kept / keep:.{digits}f}" for digits in range(2, 18))
        nearest = next((said for said in shares if round(float(said) * keep) == kept), f"{kept / keep}")
        raise ValueError(
            f"trunk share {share:g} asks for {asked} of the {keep} kept {what} in layers of several tasks, "
            f"and {kept} ({nearest}) is the nearest that sizes and protected layers allow: use another "
            "share or ratio"
        )


def make_refill(model: nn.Module, plan: Plan, owners: Owners) -> Refill | None:
    """What scores do to the plan's budgets, None for budgets that are the same whatever the scores are."""
    refill = REFILLS.get(plan.budget)
    if refill is None:
        return None
    names = in_scope(model, owners, plan)
    free = frozenset(names) - matching(names, plan.protect, model)
    trunk = shared_layers(names, owners)
    groups = (free,) if plan.trunk_share is None else (free & trunk, free - trunk)
    return partial(refill, arbiter=plan.weigh, groups=groups)


def _check_counted(names: Iterable[str], uses: Mapping[str, int]) -> None:
    """Raises ValueError that names the first layer whose multiply-adds nobody counted."""
    unknown = [name for name in names if name not in uses]
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
    """The plan's floor under every layer that a task uses, for each of the budgets; protected layers keep
    all that they have. None where parts keep what the granularity says."""
    grain = plan.grain
    if not plan.floor or not grain.granularity.whole:
        return tuple(NO_FLOORS for _ in budgets)
    names = in_scope(model, owners, plan)
    shapes, used = weight_shapes(model, names), [name for name in names if owners[name]]
    sizes, units = grain.costs(shapes), grain.unit_costs(shapes)
    protected = matching(names, plan.protect, model)
    apart = frozenset() if plan.trunk_share is None else shared_layers(names, owners)
    return tuple(
        Floors(floor_counts(sizes, budget, plan.floor, used, units, protected), apart) for budget in budgets
    )


def above_floors(
    model: nn.Module, plan: Plan, owners: Owners, budgets: Sequence[Budget]
) -> tuple[tuple[Budget, ...], tuple[Floors, ...]]:
    """Nested budgets that hold the plan's floors, and these. Budgets that scores change, or whose rounds
    revive what is pruned, take them in when they choose.

    Raises ValueError where floors ask for more than a budget keeps.
    """
    floors = make_floors(model, plan, owners, budgets)
    held = nest_above(budgets, floors)  # complains about impossible floors whenever they are taken in
    late = plan.revive or plan.budget in REFILLS
    return tuple(budgets) if late else held, floors


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
    of_channels, grain = find_criterion(plan.criterion).channels, plan.grain
    if of_channels is not None and isinstance(grain, Channelwise):
        return lambda network: {plan.criterion: of_channels(network, grain)}
    names = in_scope(scored, electorate.owners, plan)
    asked = _asked(plan, scored, electorate, batches, seed, forward, names)
    voters = [voter.among(names) for voter in asked]
    whole = None
    if plan.revive:
        whole = {name: all_of(w.detach()).clone() for name, w in find_parameters(scored, names).items()}
    few = find_criterion(plan.criterion).batches
    if few is not None and not isinstance(batches, Mapping):
        batches = list(islice(batches, few))

    home = device_of(scored)

    def score_network(network: nn.Module) -> dict[str, Scores]:
        return score(
            network,
            voters,
            follow(batches, home, device_of(network)),
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
    grain = plan.grain
    if plan.starts == "dense":
        return dense_mask(model, names)
    scored = INITS[plan.score_init](model, seed, electorate.owners)
    score_network = make_scorer(scored, plan, electorate, batches, seed, forward)
    if plan.keep_ratio is None:
        if keep is None:
            budgets = make_budgets(model, plan, electorate.owners)
        else:
            budgets = (make_room(model, plan, electorate.owners).budget(keep),)
        budgets, floors = above_floors(model, plan, electorate.owners, budgets)
        if plan.retrain:
            budgets, floors = budgets[:1], floors[:1]
        read_once = find_criterion(plan.criterion).batches is not None  # the few that it needs are kept
        if isinstance(batches, Iterator) and len(budgets) > 1 and not read_once:
            raise ValueError("several rounds read the batches several times: pass a list, not an iterator")
        refill = make_refill(model, plan, electorate.owners)
        mask = progressive(
            scored, score_network, budgets, plan.weigh, floors, plan.revive, among, grain, refill
        )
    else:
        scores = spare(scored, score_network(scored))
        mask = _published_rule(model, scores, plan, plan.keep_ratio, {name: weights[name] for name in names})
    mask = mask if plan.removes else {name: mask[name] for name in names}
    if plan.shuffle:
        mask = _shuffled(model, mask, grain, seed)
    check_same_everywhere(mask, electorate.gather)
    return mask


def _shuffled(model: nn.Module, mask: Mask, grain: Grain, seed: int) -> Mask:
    """Other units of every layer, as many; at least one of each slice that is divided by its own norm."""
    units = shuffle_within_layers(grain.units(mask), seed)
    axes = {} if grain.granularity.removes else divided(model)
    for name in axes.keys() & units.keys():
        kept, lots = units[name], generator(seed, "slices", name)
        place = torch.arange(kept.numel()).reshape(kept.shape)
        weights = grain.spread(place, mask[name].shape).to(kept.device)
        drawn = torch.randperm(kept.numel(), generator=lots).to(kept.device)
        units[name] = keep_slices(kept, weights, axes[name], drawn)
    device = next(iter(mask.values())).device
    return grain.masked(units, {name: kept.shape for name, kept in mask.items()}, device)


def choose_mask(model: nn.Module, plan: Plan, owners: Owners, scores: Mapping[str, Scores]) -> Mask:
    """The mask of one round that the plan makes of these scores, by voter and weight.

    Raises ValueError as `make_budgets` and `choose` do.
    """
    budgets = (make_budgets(model, plan, owners)[-1],)
    floors = make_floors(model, plan, owners, budgets)
    refill = make_refill(model, plan, owners)
    return progressive(model, lambda _: scores, budgets, plan.weigh, floors, grain=plan.grain, refill=refill)


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
    model: nn.Module,
    scores: Mapping[str, Scores],
    plan: Plan,
    keep_ratio: float,
    weights: Mapping[str, Tensor],
) -> Mask:
    """A keep ratio for every voter; protected layers stay dense, are ranked by nobody; orphans are pruned."""
    protected = matching(weights, plan.protect, model)
    free = {voter: {name: of[name] for name in of if name not in protected} for voter, of in scores.items()}
    unranked = {
        name: torch.full(weight.shape, name in protected, dtype=torch.bool, device=weight.device)
        for name, weight in weights.items()
    }
    return unranked | keep_by_ratio(free, keep_ratio, plan.arbiter)
