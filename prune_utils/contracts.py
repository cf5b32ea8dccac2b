"""A contract for every task: the smallest network in which none falls by more than its limit.

    found = prune_utils.contract(model, losses, batches, scores, finetune, limits={"a": 1, "b": 2})

Rounds of pruning and fine-tuning in which each task's rank carries a factor; ascent.py decides what is tried.
Left out: files. The networks that the search returns to are kept in memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, SupportsFloat

import torch
from torch import Tensor, nn

from .ascent import Ascent, Round, Trial, check_limits, search, size_ladder
from .bootstrap import Bootstrap, check_level
from .changes import change, drop
from .copying import copied
from .covering import Choice
from .data import Forward, read_batches
from .floors import holds
from .granularity import WEIGHT, find_granularity
from .isolation import same_modes
from .latencies import faster_sizes, measure_sizes, thinned
from .masked import Masked
from .masks import Mask, apply, dense_mask
from .methods import Method
from .methods import method as find_method
from .plan import Plan, Settings, make_plan
from .preparing import example_of, prepare
from .prune import in_scope, make_floors, make_mask, make_room
from .ratios import fixed_ratio
from .removing import Removal, check_removal, removal_of
from .text import not_one_of
from .voters import Loss, Owners

Score = Callable[[nn.Module], "float | Tensor"]


@dataclass(frozen=True)
class Contract:
    """What a search found. sparsity: holds the network to its mask; best: the round that made it, with the
    drops (their bounds, where scores are by image); rounds: all of them, in order; latencies: the table that
    was gone by, size -> milliseconds."""

    sparsity: Masked
    best: Round
    rounds: tuple[Round, ...]
    latencies: dict[int, float] | None = None


def contract(
    model: nn.Module,
    losses: Mapping[str, Loss],
    batches: Iterable[Any] | Mapping[str, Iterable[Any]],
    scores: Mapping[str, Score],
    finetune: Callable[[nn.Module, Masked], object],
    limits: Mapping[str, float],
    *,
    method: str = "disparse_pt",
    criterion: str | None = None,
    granularity: str = WEIGHT.name,
    ratio_of: str = "params",
    latencies: Mapping[int, float] | Callable[[nn.Module], float] | None = None,
    forward: Forward | None = None,
    level: float = 0.95,
    resamples: int = 999,
    resolution: float = 2.5,
    smallest: float = 0.1,
    stride: int = 16,
    turn: float = 1.5,
    turns: int = 4,
    floor: float = 0.1,
    protect: Iterable[str] = (),
    include: Choice = None,
    exclude: Choice = None,
    seed: int = 0,
) -> Contract:
    """The smallest network that keeps a limit for every task, from a trained one; pruned in place.

    losses, batches, forward, criterion, floor, protect, include, exclude: as `sparsify` takes them; likewise
        granularity ("weight", "kernel", a block, or "channel": the network on return is smaller and dense,
        and has no floor) and ratio_of, which says what is made small.
    latencies: what networks take: the fastest one is searched for, instead of the smallest. A table (see
        latencies.py), or what measures a copy of the network, its pruned weights 0, for the table that is
        made first (`prune_utils.deploy.measuring.latency_in`).
    method: a row of METHODS whose tasks vote on a trained network.
    scores: name of a limit -> score(model), larger is better: one number, or a tensor [images] whose mean is
        the score. With images a limit counts as kept when the one-sided bound of the drop, at `level`, from
        `resamples` resamples of the images, is inside it. Images that are looked at in every round say too
        little in the end: hold others back for a last look.
    finetune(model, sparsity): trains the network, where pruning alone broke a limit; the mask holds if
        sparsity.attach(optimizer) was called. It may call model.train(), and a score model.eval(): the
        modes on entry are restored after each.
    limits: task, or "task.what" -> percent of the score that may be lost; infinity = anything.
    resolution, smallest: of the sizes, see `size_ladder`; those too small for the floor are left out, of a
        table too. stride, turn, turns: see `Ascent`.
    Raises ValueError for arguments that do not go together, and, with the best that was tried, where no
        smaller network keeps the limits; the network is then as it was, and so it is, with its `.grad` and
        requires_grad, after whatever a score or `finetune` raises.
    """
    if not callable(finetune):
        raise ValueError(f"finetune is {finetune!r}, not a function of the network and what holds its mask")
    row = find_method(method)
    plan = _plan(row, criterion, floor, protect, granularity, ratio_of)
    taken = read_batches(batches, losses)
    ready = partial(prepare, forward=forward, include=include, exclude=exclude)
    plan, electorate = ready(model, plan, losses, taken.given, taken.first)
    owners = electorate.owners
    sizes = sizes_of(model, plan, owners, resolution, smallest)
    check_limits(limits, losses)
    judge = _Judge(model, scores, limits, level, resamples, seed)
    original = state = copy.deepcopy(model.state_dict())
    gradients = [
        (weight, weight.requires_grad, weight.grad, copy.deepcopy(weight.grad))
        for weight in model.parameters()
    ]
    tried = mask = dense_mask(model, in_scope(model, owners, plan))

    def choose(size: int, factors: Mapping[str, float], among: Mask) -> Mask:
        weighed = replace(plan, factors=dict(factors))
        return make_mask(model, weighed, electorate, taken.numbered, seed, forward, keep=size, among=among)

    def removal(chosen: Mask, size: int) -> Removal:
        found = removal_of(plan.channels, chosen, size)
        check_removal(model, found, *example_of(taken.first[0], forward))
        return found

    def pruned(size: int) -> nn.Module:
        network, chosen = copied(model), choose(size, dict.fromkeys(losses, 1.0), mask)
        if plan.removes:
            removal(chosen, size).apply(network)
        else:
            apply(network, chosen)
        return network

    table = measure_sizes(thinned(sizes), pruned, latencies) if callable(latencies) else latencies
    sizes = sizes if table is None else met(model, plan, owners, faster_sizes(table, sizes[0]))
    ascent = Ascent(limits, tuple(losses), sizes, stride, turn, turns)

    def attempt(trial: Trial) -> dict[str, float]:
        nonlocal tried
        model.load_state_dict(state)
        tried = choose(trial.keep, trial.factors, mask)
        if plan.removes:  # said before the training, not after it
            removal(tried, trial.keep)
        apply(model, tried)
        found = judge.drops(model)
        if all(found[name] <= limit for name, limit in limits.items()):
            return found
        sparsity = Masked(model, tried)
        try:
            with same_modes(model):
                finetune(model, sparsity)
        finally:
            sparsity.detach()
        sparsity.zero_pruned()
        return judge.drops(model)

    def done(last: Round) -> None:
        nonlocal state, mask
        if last.kept:
            state, mask = copy.deepcopy(model.state_dict()), tried

    try:
        best = search(ascent, attempt, done)
        if best is None:
            raise ValueError(unkept(ascent))
    except BaseException:
        model.load_state_dict(original)
        for weight, trains, gradient, values in gradients:
            weight.requires_grad_(trains)
            weight.grad = gradient
            if gradient is not None and values is not None:
                gradient.copy_(values)
        raise
    model.load_state_dict(state)
    asked = replace(plan, factors=best.trial.factors).asked | {"ratio": None, "limits": dict(limits)}
    if plan.removes:
        gone = removal(mask, best.trial.keep)
        gone.apply(model)
        # of the layers as they are now
        owners = ready(model, plan, losses, taken.given, taken.first)[1].owners
        mask, asked = dense_mask(model, in_scope(model, owners, plan)), asked | {"whole": asdict(gone.before)}
    sparsity = Masked(model, mask, owners=owners, asked=asked)
    return Contract(sparsity, best, tuple(ascent.rounds), None if table is None else dict(table))


def sizes_of(
    model: nn.Module, plan: Plan, owners: Owners, resolution: float, smallest: float
) -> tuple[int, ...]:
    """The ladder of a network: what `size_ladder` gives above all that always stays, as far as it can be
    met. Errors are those of `met`."""
    room = make_room(model, plan, owners)
    ladder = size_ladder(room.total, resolution, smallest, _least(model, plan, owners))
    return met(model, plan, owners, ladder)


def met(model: nn.Module, plan: Plan, owners: Owners, sizes: Sequence[int]) -> tuple[int, ...]:
    """The sizes, the whole network first, that hold what always stays and the floor of every layer.

    Raises ValueError where none below the first does.
    """
    least = _least(model, plan, owners)
    large = [size for size in sizes if size >= least]
    budget = make_room(model, plan, owners).budget
    budgets = [budget(size) for size in large]
    floors = make_floors(model, plan, owners, budgets)
    found = [size for size, of, low in zip(large, budgets, floors, strict=True) if holds(of, low)]
    if len(found) < 2:
        floor = f" and the floor {plan.floor:g} of every layer" if plan.floor else ""
        raise ValueError(
            f"no size below the whole network, {sizes[0]:,}, holds what always stays{floor}: give other sizes"
        )
    return tuple(found)


def _least(model: nn.Module, plan: Plan, owners: Owners) -> int:
    """What always stays: protected layers, or what is left without every channel that a task may give up."""
    if plan.removes:
        return plan.channels.least([name for name in in_scope(model, owners, plan) if owners[name]])
    return make_room(model, plan, owners).protected


def unkept(ascent: Ascent) -> str:
    """One sentence for a search in which nothing was kept, with the best that was tried."""
    nearest, name = ascent.nearest()
    return (
        f"no smaller network keeps the limit {ascent.limits[name]:g} % of {name!r}: the best that was tried, "
        f"of size {nearest.trial.keep:,} of {ascent.sizes[0]:,}, loses {nearest.drops[name]:.4g} %"
    )


def check_voted(row: Method, plan: Plan) -> None:
    """ValueError for a method in which factors of tasks have no meaning, or that starts from no trained
    network."""
    if not row.needs_dense or row.start != "dense" or row.retrain or plan.voters != "tasks":
        raise ValueError(
            f"a contract needs a method whose tasks vote once on a trained network, such as disparse_pt, not "
            f"{row.name!r}"
        )
    if not find_granularity(plan.granularity).whole:
        raise ValueError(
            f"granularity {plan.granularity!r} fixes what each layer keeps: a contract takes 'weight', "
            "'kernel', a block or 'channel'"
        )
    if plan.budget != "global":
        raise ValueError(f"budget {plan.budget!r} fixes what each layer keeps: a contract takes 'global'")


def _plan(
    row: Method,
    criterion: str | None,
    floor: float,
    protect: Iterable[str],
    granularity: str,
    ratio_of: str,
) -> Plan:
    settings = Settings(
        ratio=fixed_ratio(granularity) or 0.0,
        criterion=criterion,
        arbiter="weighted",
        protect=protect,
        floor=0.0 if find_granularity(granularity).removes else floor,
        granularity=granularity,
        ratio_of=ratio_of,
    )
    plan = make_plan(row, settings)
    check_voted(row, plan)
    return plan


class _Judge:
    """What networks lose against the one that is there when this is made."""

    def __init__(
        self,
        model: nn.Module,
        scores: Mapping[str, Score],
        limits: Mapping[str, float],
        level: float,
        resamples: int,
        seed: int,
    ) -> None:
        check_level(level, resamples)
        for name in limits:
            if name not in scores:
                raise ValueError(not_one_of("limit", name, scores))
        self.scores = {name: scores[name] for name in limits}
        self.dense = {name: self._score(name, model) for name in limits}
        counts = {len(score) for score in self.dense.values() if score.dim()}  # of images
        self.bootstraps = {images: Bootstrap(images, resamples, level, seed) for images in counts}
        for name, value in self.dense.items():
            if limits[name] == math.inf:
                continue
            if not value.mean().isfinite() or not value.mean():
                raise ValueError(f"the trained network's score of {name!r} is {float(value.mean()):g}")

    def _score(self, name: str, model: nn.Module) -> Tensor:
        with same_modes(model):
            found = self.scores[name](model)
        if not isinstance(found, Tensor):
            if not isinstance(found, SupportsFloat):
                raise ValueError(
                    f"score {name!r} is a {type(found).__name__}: give one number, or a tensor of one for "
                    "every image"
                )
            return torch.tensor(float(found), dtype=torch.float64)
        if found.dim() > 1 or not found.numel():
            raise ValueError(
                f"score {name!r} is of shape {tuple(found.shape)}: give one number, or one for every image"
            )
        return found.detach().cpu().double()

    def drops(self, model: nn.Module) -> dict[str, float]:
        return {name: self._drop(name, self._score(name, model)) for name in self.scores}

    def _drop(self, name: str, now: Tensor) -> float:
        dense = self.dense[name]
        if now.shape != dense.shape:
            raise ValueError(f"score {name!r} was of shape {tuple(dense.shape)}, now of {tuple(now.shape)}")
        if not now.dim():
            lost = drop([change(float(now), float(dense), larger=True)])
            return math.inf if math.isnan(lost) else lost  # as of bounds: more than any limit but infinity
        bootstrap = self.bootstraps[len(now)]
        pairs = zip(bootstrap.totals(now).tolist(), bootstrap.totals(dense).tolist(), strict=True)
        drops = [drop([change(a, b, larger=True)]) for a, b in pairs]
        return bootstrap.bound(torch.tensor(drops, dtype=torch.float64))[1]
