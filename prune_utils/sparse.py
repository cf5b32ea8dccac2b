"""One call from a network, its losses and some batches to a sparse network that stays sparse.

    sparsity = prune_utils.sparsify(model, losses, batches, ratio=90)
    sparsity.attach(optimizer)

Every step of it is public too: `owners_from_graph`, `make_mask` (scoring, budgets and choice), `Masked`,
`Regrowth`, `Rounds`, `certificate`. Left out: the training itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .arbiters import Arbiter
from .courses import Course, make_sparsifier, regrowth
from .covering import Choice
from .criteria import find_criterion
from .data import Forward, read_batches
from .gathering import check_alike
from .gradual import Pace
from .granularity import WEIGHT, find_granularity
from .masked import Masked
from .methods import Method
from .methods import method as find_method
from .parameters import place_of
from .plan import Plan, Settings, make_plan
from .preparing import prepare
from .prune import above_floors, make_budgets, make_mask, make_scorer
from .ratios import fixed_ratio
from .regrow import Growth, Schedule
from .rounds import Rounds
from .voters import Gather, Loss


def sparsify(
    model: nn.Module,
    losses: Mapping[str, Loss],
    batches: Iterable[Any] | Mapping[str, Iterable[Any]],
    ratio: float | None = None,
    method: str = "disparse_static",
    *,
    granularity: str = WEIGHT.name,
    ratio_of: str = "params",
    forward: Forward | None = None,
    loss_weights: Mapping[str, float] | None = None,
    seed: int = 0,
    budget: str | None = None,
    trunk_share: float | None = None,
    floor: float = 0.1,
    arbiter: str | Arbiter = "unanimous",
    factors: Mapping[str, float] | None = None,
    criterion: str | None = None,
    voters: str | None = None,
    rounds: int | None = None,
    scope: str = "all",
    protect: Iterable[str] = (),
    include: Choice = None,
    exclude: Choice = None,
    unowned: str = "leave_out",
    score_init: str = "own",
    shuffle: bool = False,
    keep_ratio: float | None = None,
    num_batches: int | None = None,
    schedule: Schedule | Pace | None = None,
    pruning_batches: int = 1,
    backward: float = 0.1,
    every: int = 100,
    initial: Mapping[str, Any] | None = None,
    gather: Gather | None = None,
) -> Masked:
    """Prunes the network in place, and returns what holds it sparse: attach it to the optimizers.

    losses: task -> loss(predictions, targets), a scalar; None in a batch without a label of the task.
    batches: (input, targets) pairs, or whatever `forward` takes; or a mapping task -> batches of its own. All
        are read (num_batches: so many at most) and kept for growth; owners are seen on them too.
    ratio: percent of the considered weights that are removed, met to one weight, or one unit of the
        granularity; None = 90, or what a granularity such as "2:4" removes.
    granularity: what is kept or pruned together: "weight", "kernel", "block:4x1", or in what pattern: "2:4"
        (any N:M), "fanin" (granularity.py). A layer that it does not divide stays dense.
    ratio_of: "params", or "macs" = the ratio is of multiply-adds in a forward pass of the first batch.
    method: a name in METHODS. A network that a method calls trained must be trained already.
    forward: forward(network, batch) -> predictions, None = network(batch[0]).
    loss_weights: task -> weight in the sum of the losses, for methods that look at it; 1 where it is missing.
    budget: a name in BUDGETS, None = the method's. "erk" fixes every layer's density, "waterfill" takes it
        from the scores. trunk_share: of the kept weights, in layers of several tasks; None = as it comes.
    floor: every layer that a task uses keeps at least this share of the overall density, and one weight;
        0 = no floor. criterion: a name in CRITERIA, None = the method's.
    arbiter: a name in ARBITERS, or one of your own. factors: task -> number above 0 that its ranks are
        divided by: a task of factor 2 keeps about twice as much of what it wants; None = the arbiter's.
    voters: "tasks", "joint", or a name in WEIGHTINGS for the sum of the losses in weights that the tasks'
        gradients give; None = the method's. The first two also say who votes on growth.
    rounds: score again so many times on the way to the budget, None = the method's.
    scope: "all", or "backbone" = what several tasks share. protect: patterns of layers that stay dense and
        count. include, exclude: patterns or a predicate, which weights are considered (see `coverage`).
    unowned: "leave_out" or "prune" weights that no task uses: before all others, but for the share that a
        budget by layer ("erk", "uniform", "waterfill") gives each layer. score_init: "own" weights, or a
        "xavier" copy.
    keep_ratio: the published rule instead of the ratio, without a floor; see `keep_by_ratio`.
    schedule: when the mask moves: a Schedule for a method that regrows (rigl), a Pace for one that prunes on
        its way (gmp, granet, top_kast), whose `fraction` is half for a row that regrows.
    pruning_batches: on so many of the batches, the first ones, each pruning of a gradual method ranks weights
        by gradients, whole and summed (a forward pass and a backward pass for every voter each); 1 = on the
        batch of its step, where `batch` is not set the next of `batches`.
    backward: share of all weights that top_kast trains beside the kept; it takes floor=0.
    every: steps between the rounds of a method that trains between them. initial: copy of the state dict
        that a method rewinds the network to.
    gather: a tensor of every process. None = those of torch.distributed, if there are several processes: then
        all call this, each with as many batches of its own, and choose together (of a sharded network: with
        the same batches). `lambda tensor: [tensor]` = each process prunes a network of its own.
    Returns Masked, Regrowth for a dynamic method, Gradual or TopKast for one that prunes while it trains,
        Rounds for one that trains between its rounds.
    >>> import torch
    >>> net = nn.Linear(4, 5)
    >>> losses = {"a": lambda out, true: (out[:, :3] - true).abs().mean(), "b": lambda out, true: out.std()}
    >>> sparsity = sparsify(net, losses, [(torch.randn(8, 4), torch.zeros(8, 3))], ratio=70)
    >>> optimizer = torch.optim.Adam(net.parameters())
    >>> sparsity.attach(optimizer).verify()["pruned"], int((net.weight == 0).sum())
    (14, 14)

    Raises ValueError in one sentence that names the thing, the value and the choices; the network is then as
        it was. Source of the default method: DiSparse, Sun et al., CVPR 2022, section 3.
    """
    row = find_method(method)
    if find_granularity(granularity).removes:
        raise ValueError("granularity 'channel' leaves a smaller network and no mask: call remove_channels")
    _check(model, losses, row, schedule, initial, forward)
    settings = Settings(
        ratio=ratio if ratio is not None else fixed_ratio(granularity) or 90.0,
        keep_ratio=keep_ratio,
        criterion=criterion,
        budget=budget,
        trunk_share=trunk_share,
        arbiter=arbiter,
        factors=factors or {},
        scope=scope,
        protect=protect,
        rounds=rounds,
        shuffle=shuffle,
        score_init=score_init,
        floor=floor if keep_ratio is None else 0.0,
        voters=voters,
        granularity=granularity,
        ratio_of=ratio_of,
    )
    plan = make_plan(row, settings)
    ranks = _ranks_in_training(row, plan, pruning_batches)
    taken = read_batches(batches, losses, num_batches)
    if pruning_batches > max(1, len(taken.steps)):
        there = len(taken.steps)
        raise ValueError(f"pruning_batches {pruning_batches} is more than the {there} batches given")
    plan, electorate = prepare(
        *(model, plan, losses, taken.given, taken.first),
        forward=forward,
        loss_weights=loss_weights,
        gather=gather,
        include=include,
        exclude=exclude,
        unowned=unowned,
    )
    owners = electorate.owners
    if gather is None:
        check_alike("the number of batches", [sorted(step) for step in taken.given])
        check_alike("the owners of the weights", {name: sorted(tasks) for name, tasks in owners.items()})
    mask = make_mask(model, plan, electorate, taken.numbered, seed, forward)
    if initial is not None:
        model.load_state_dict(initial)
    asked = plan.asked | {"seed": seed, "batches": len(taken.steps)}
    known = {"owners": owners, "asked": asked | ({"pruning_batches": pruning_batches} if ranks else {})}
    # without `forward` no batch is a mapping, but for those by task
    held = known | {"batches": taken.steps, "by_task": taken.by_task or forward is None}
    if pruning_batches > 1:
        held["numbered"] = taken.first_of_each(pruning_batches)
    if isinstance(schedule, Pace):
        fraction = schedule.settled(regrows=row.grow is not None).fraction or 0.0
        rhythm = _Rhythm(schedule.start, schedule.end, schedule.every, fraction, backward)
        return make_sparsifier(
            Course(
                model, mask, None, row, plan, electorate, schedule.end, seed, rhythm, rhythm, held, forward
            )
        )
    if row.grow is not None and plan.grow_voters is not None and schedule is not None:
        growing = electorate.voters(plan.grow_voters)
        growth = Growth(growing, row.grow, plan.weigh, seed, gather, forward, grain=plan.grain)
        return regrowth(model, mask, None, schedule, growth, **held)
    if row.retrain:
        budgets, floors = above_floors(model, plan, owners, make_budgets(model, plan, owners))
        scored = make_scorer(model, plan, electorate, taken.numbered, seed, forward)
        return Rounds(
            model,
            mask,
            budgets[1:],
            every,
            gather,
            score=scored,
            arbiter=plan.weigh,
            floors=floors[1:],
            grain=plan.grain,
            **known,
        )
    return Masked(model, mask, **known)


def _ranks_in_training(row: Method, plan: Plan, number: int) -> bool:
    """Whether the method's prunings in training read batches. Raises ValueError for a number of batches that
    is none, or that no pruning reads."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"pruning_batches {number!r} is not a whole number of at least 1")
    ranks = row.course == "gradual" and find_criterion(plan.criterion).needs_gradient
    if number > 1 and not ranks:
        raise ValueError(
            f"pruning_batches {number} is for methods whose prunings in training rank weights by gradients, "
            f"such as disparse_gmp, not for {row.name} with criterion {plan.criterion}"
        )
    return ranks


def _check_initial(initial: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises ValueError for a state dict that the network, whose own is given, cannot be rewound to."""
    if not isinstance(initial, Mapping):
        raise ValueError(f"initial is a {type(initial).__name__}, not a state dict")
    for name in (*own, *initial):
        if name not in initial or name not in own:
            has, lacks = ("the network", "initial") if name in own else ("initial", "the network")
            raise ValueError(
                f"{has} has {name!r} and {lacks} has not: initial is no state dict of this network"
            )
        value, now = initial[name], own[name]
        if not isinstance(now, Tensor):
            continue
        if not isinstance(value, Tensor):
            raise ValueError(f"{name!r} of initial is a {type(value).__name__}, the network's a tensor")
        if value.shape != now.shape:
            shapes = f"{tuple(value.shape)}, the network's has {tuple(now.shape)}"
            raise ValueError(f"{name!r} of initial has shape {shapes}")
        if place_of(value) is not None and place_of(value) == place_of(now):
            raise ValueError(
                "initial holds the network's own tensors, which have changed with it: pass "
                "copy.deepcopy(model.state_dict()) from before training"
            )


@dataclass(frozen=True)
class _Rhythm:
    """The settings of a course, in steps."""

    start: float
    end: float
    every: float
    fraction: float
    backward: float
    until: float = 0.0
    memory: float = 0.0
    salient: float = 0.3
    drop: str = "magnitude"
    progress: float = 0.0


def _check(
    model: nn.Module,
    losses: Mapping[str, Loss],
    row: Method,
    schedule: Schedule | Pace | None,
    initial: Mapping[str, Any] | None,
    forward: Forward | None,
) -> None:
    """Raises ValueError for arguments that do not go together, before anything is computed."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if not isinstance(losses, Mapping) or not losses or not all(map(callable, losses.values())):
        raise ValueError("losses must be a mapping from every task to its loss(predictions, targets)")
    if forward is not None and not callable(forward):
        raise ValueError(f"forward {forward!r} is no function of the network and a batch")
    if initial is not None and row.start == "rewound":
        _check_initial(initial, model.state_dict())
    paced = row.by_itself and row.course != "regrow"
    if paced and not isinstance(schedule, Pace):
        raise ValueError(
            f"method {row.name!r} prunes while it trains: pass "
            "schedule=prune_utils.Pace(start=STEP, end=STEP, every=STEPS)"
        )
    if not paced and isinstance(schedule, Pace):
        raise ValueError(f"method {row.name!r} does not prune while it trains, so it takes no Pace")
    if paced and initial is None:
        return
    if row.grow is not None and schedule is None:
        raise ValueError(
            f"method {row.name!r} moves its mask while it trains: pass "
            "schedule=prune_utils.Schedule(until=STEP, every=STEPS)"
        )
    if row.grow is None and schedule is not None:
        raise ValueError(f"method {row.name!r} does not move its mask, so it takes no schedule")
    if row.start == "rewound" and initial is None:
        raise ValueError(
            f"method {row.name!r} trains the initial weights again: pass their state dict as initial"
        )
    if row.start != "rewound" and initial is not None:
        raise ValueError(f"method {row.name!r} does not rewind the network, so it takes no initial weights")
