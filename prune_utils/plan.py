"""The plan of a mask: a method's row and the user's settings in one, every choice resolved and checked.

Nothing is computed here, and no network is known: prune.py makes the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .arbiters import Arbiter, arbiter_name, find_arbiter
from .budgets import BUDGETS, check_ratio
from .channelwise import Channelwise, Linked, channel_grain
from .copying import copied
from .criteria import find_criterion
from .filling import REFILLS
from .floors import check_floor
from .granularity import WEIGHT, Grain, find_granularity
from .masks import prunable
from .methods import Method, method
from .parameters import find_parameters
from .ranking import rank_fractions
from .ratios import RATIO_OF
from .rounds import geometric_keeps
from .seeds import generator
from .shards import sharded
from .text import not_one_of
from .voters import VOTERS
from .weightings import WEIGHTINGS, find_weighting


@dataclass(frozen=True)
class Plan:
    """A method's row and the user's settings in one: nothing is left open."""

    method: str
    criterion: str
    voters: str
    budget: str
    arbiter: str | Arbiter
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
    trunk_share: float | None = None  # of the kept weights, in layers of several tasks; None = as it comes
    grow_voters: str | None = None  # whose scores say what grows; None = nothing grows
    uses: dict[str, int] | None = None  # multiply-adds of one weight (multiply_adds.py), where known
    linked: Linked | None = None  # channels that hang together (channelwise.py), where known

    @property
    def counted(self) -> bool:
        """Whether multiply-adds are counted: where the ratio is of them, or units are not single weights."""
        return self.ratio_of == "macs" or self.granularity != WEIGHT.name

    @property
    def removes(self) -> bool:
        """Whether units leave the network, instead of being masked."""
        return find_granularity(self.granularity).removes

    @property
    def asked(self) -> dict[str, Any]:
        """What a certificate says of it, in plain values."""
        asked = asdict(replace(self, linked=None, arbiter=arbiter_name(self.arbiter)))
        del asked["linked"]
        if self.grow_voters is None:
            del asked["grow_voters"]
        return asked

    @property
    def channels(self) -> Channelwise:
        """The grain of a granularity that removes channels. Raises ValueError where nobody has looked for
        them."""
        if self.linked is None:
            raise ValueError(
                "granularity 'channel' needs to know which channels hang together: pass `linked` (`link`)"
            )
        return channel_grain(self.linked, self.uses or {}, self.ratio_of, self.channel_multiple)

    @property
    def grain(self) -> Grain:
        """What is kept or pruned together, and what it costs.

        Raises ValueError where the ratio counts multiply-adds, and nobody has; and as `channels`.
        """
        if self.removes:
            return self.channels
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
    return copied(model, {id(weight): new for weight, new in zip(weights.values(), drawn, strict=True)})


# (network, seed, names of the weights that may be drawn anew) -> the network that is scored
INITS: dict[str, Callable[[nn.Module, int, Iterable[str]], nn.Module]] = {
    "own": lambda model, seed, names: model,
    "xavier": xavier_copy,
}

SCOPES: dict[str, Callable[[frozenset[str]], bool]] = {
    "all": lambda tasks: True,
    "backbone": lambda tasks: len(tasks) > 1,  # what several tasks share
}


@dataclass(frozen=True)
class Settings:
    """What `make_plan` reads besides the method's row, for callers without settings of their own; None = the
    method's own."""

    ratio: float
    keep_ratio: float | None = None
    criterion: str | None = None
    pt_criterion: str = "magnitude"
    budget: str | None = None
    arbiter: str | Arbiter = "unanimous"
    scope: str = "all"
    protect: str | Iterable[str] = ()
    rounds: int | None = None
    shuffle: bool = False
    score_init: str = "own"
    floor: float = 0.0
    voters: str | None = None
    start_mask: str | None = None
    factors: Mapping[str, float] = field(default_factory=dict)
    granularity: str = WEIGHT.name
    ratio_of: str = RATIO_OF[0]
    channel_multiple: int = 1
    trunk_share: float | None = None


def make_plan(row: Method, settings: Any) -> Plan:
    """Resolves the method's row and the settings (attributes as in configs.schema.Prune; None = the method's
    own).

    Raises ValueError, naming value and choices, for whatever does not exist or does not go together.
    """
    mask_row, protect = _mask_row(row, settings.start_mask), settings.protect
    if not isinstance(settings.factors or {}, Mapping):
        kind = type(settings.factors).__name__
        raise ValueError(f"factors are a {kind}, not a mapping from tasks to numbers")
    if not isinstance(protect, Iterable):
        raise ValueError(f"protect {protect!r} is no pattern of names, nor several")
    plan = Plan(
        method=row.name,
        criterion=settings.criterion or mask_row.criterion or settings.pt_criterion,
        voters=settings.voters or mask_row.voters,
        budget=settings.budget or mask_row.budget,
        arbiter=settings.arbiter,
        scope=settings.scope,
        protect=(protect,) if isinstance(protect, str) else tuple(protect),
        ratio=settings.ratio,
        keep_ratio=settings.keep_ratio,
        rounds=mask_row.rounds if settings.rounds is None else settings.rounds,
        retrain=mask_row.retrain,
        shuffle=settings.shuffle,
        score_init=mask_row.score_init or settings.score_init,
        revive=mask_row.revive,
        starts=row.starts,
        factors=dict(settings.factors or find_arbiter(settings.arbiter).factors) or None,
        floor=getattr(settings, "floor", 0.0),  # settings may leave these out
        granularity=_granularity(row, getattr(settings, "granularity", WEIGHT.name)),
        ratio_of=getattr(settings, "ratio_of", RATIO_OF[0]),
        channel_multiple=getattr(settings, "channel_multiple", 1),
        trunk_share=getattr(settings, "trunk_share", None),
        grow_voters=_grow_voters(row, settings.voters),
    )
    _check_voters(plan)
    _check_grow_voters(plan, row, settings.voters)
    _check_shuffle(plan, row)
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
    _check_refill(plan, row)
    _check_trunk_share(plan)
    if plan.keep_ratio is not None and plan.floor:
        raise ValueError(f"keep ratio {plan.keep_ratio} is a rule without floors, not for floor {plan.floor}")
    if plan.factors and "tasks" not in (plan.voters, plan.grow_voters):
        raise ValueError(f"factors weigh tasks, and method {row.name} asks them all as one")
    ranked_again = plan.starts == "dense" or row.course == "top_kast"
    if plan.keep_ratio is not None and (not by_rank or plan.factors or ranked_again):
        raise ValueError(
            f"keep ratio {plan.keep_ratio} is a rule for one ranking before training, not for arbiter "
            f"{arbiter_name(plan.arbiter)} or method {plan.method}"
        )
    if plan.keep_ratio is not None and (plan.budget != "global" or plan.rounds > 1):
        raise ValueError(
            f"keep ratio {plan.keep_ratio} is a rule for one global round, not for budget {plan.budget} "
            f"and {plan.rounds} rounds"
        )
    return plan


def check_factors(plan: Plan, tasks: Collection[str]) -> None:
    """Raises ValueError for a factor of none of these tasks."""
    for task in plan.factors or ():
        if task not in tasks:
            raise ValueError(f"factor of task {task!r}: the tasks are {', '.join(map(str, tasks))}")


def _check_voters(plan: Plan) -> None:
    """Raises ValueError for an unknown criterion or voters, and where the two do not go together."""
    rule = find_criterion(plan.criterion)
    if rule.channels and (plan.granularity != "channel" or plan.voters != "joint"):
        raise ValueError(
            f"criterion {plan.criterion} scores whole channels for all tasks together: it goes with "
            f"granularity 'channel' and voters 'joint', not {plan.granularity!r} and {plan.voters!r}"
        )
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


def _grow_voters(row: Method, asked: str | None) -> str | None:
    """Those that were asked for, where they can vote on the batch of a step, else the row's own."""
    if row.grow is None:
        return None
    return asked if asked in VOTERS else row.grow_voters


def _check_grow_voters(plan: Plan, row: Method, voters: str | None) -> None:
    """Raises ValueError for voters that were asked for and have nothing to vote on."""
    by_lot = plan.criterion == row.grow == "random"
    if by_lot and voters not in (None, row.grow_voters):
        raise ValueError(
            f"voters {voters!r} have no say in method {row.name}, which draws its first mask and what grows "
            "by lot: choose rigl or disparse_dynamic, or a start mask"
        )


def _check_shuffle(plan: Plan, row: Method) -> None:
    """Raises ValueError where weights are chosen again after the mask that would be shuffled."""
    if not plan.shuffle:
        return
    if plan.retrain and (plan.rounds > 1 or plan.removes):
        what = "channels" if plan.removes else "weights"
        raise ValueError(f"shuffle permutes the {what} of one choice, and retrain makes several")
    if plan.starts == "dense" or row.course == "top_kast":
        raise ValueError(
            f"shuffle permutes the weights of one choice, and method {row.name} chooses again while it "
            "trains: choose a method that prunes before training"
        )


def _granularity(row: Method, asked: str) -> str:
    """The row's own, or any other where it has none. Raises ValueError for another than the row's own."""
    if row.granularity not in (WEIGHT.name, asked) and asked != WEIGHT.name:
        raise ValueError(f"method {row.name} is of granularity {row.granularity!r}, not {asked!r}")
    return asked if row.granularity == WEIGHT.name else row.granularity


def _check_refill(plan: Plan, row: Method) -> None:
    """Raises ValueError where a budget is made from scores, and the plan has none to make it from."""
    if plan.budget not in REFILLS:
        return
    if plan.criterion == "random" or row.course == "top_kast" or plan.retrain:
        raise ValueError(
            f"budget {plan.budget!r} takes each layer's density from the scores of a mask, not for method "
            f"{plan.method} with criterion {plan.criterion}: choose budget 'erk'"
        )
    if plan.granularity != WEIGHT.name:
        raise ValueError(f"budget {plan.budget!r} counts single weights, not granularity {plan.granularity}")


def _check_trunk_share(plan: Plan) -> None:
    """Raises ValueError for a share that is none, or that another rule would break."""
    share = plan.trunk_share
    if share is None:
        return
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ValueError(f"trunk share {share!r} is not a share of the kept weights, above 0 and below 1")
    if plan.keep_ratio is not None or not find_granularity(plan.granularity).whole or plan.removes:
        by_ratio = plan.keep_ratio is not None
        what = f"keep ratio {plan.keep_ratio}" if by_ratio else f"granularity {plan.granularity}"
        raise ValueError(f"trunk share {share} divides a budget of weights, and {what} has none")


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
    if row.grow is not None and not (granularity.moves and row.course == "regrow"):
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
    if row.course != "hold":
        raise ValueError(
            "granularity channel removes channels before training, in one round or several, and method "
            f"{row.name} prunes while it trains"
        )
    if plan.floor:
        raise ValueError(
            f"granularity channel keeps {plan.channel_multiple} channels of every layer, and no floor "
            f"{plan.floor}"
        )
    for what, value, only in (("budget", plan.budget, "global"), ("scope", plan.scope, "all")):
        if value != only:
            raise ValueError(f"granularity channel goes with {what} {only!r}, not {value!r}")


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
