"""The noise of scores: a network is scored, at its initialisation, on two growing sets of batches that have
none in common; at every size the masks and the ranks of the two are compared, with and without dropout, with
|w g| summed over the batches (unsigned) and with the size of the sum (signed).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from statistics import median
from typing import Any, NamedTuple

import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from tqdm import tqdm

from configs.load import as_tree
from prune_utils.budgets import Pool
from prune_utils.choosing import choose
from prune_utils.criteria import find_criterion
from prune_utils.masks import Mask, Scores, count
from prune_utils.methods import Method
from prune_utils.parameters import find_parameters
from prune_utils.plan import INITS
from prune_utils.prune import choose_mask
from prune_utils.scoring import task_gradients
from prune_utils.seeds import generator
from prune_utils.voters import Owners, Voter
from training.checkpoint import versions
from workflow.experiment import Experiment
from workflow.networks import new_network
from workflow.pruning import Pruning

from .overlap import overlap, together

SUMS = {"unsigned": "snip", "signed": "snip_signed"}  # how batches are added up -> the criterion that does so
FORMAT = 1
Case = tuple[int, bool, str, int]  # seed, dropout, sum, batches


class Value(NamedTuple):
    """One figure. measure: "iou" of the two masks of a method, "between" of two methods' masks, each from
    another set, "magnitude" of a method's masks and those of |w| alone with the same counts by layer, or
    "rank" (Spearman) of a voter's scores. of: the method, "a, b", or the voter.

    part: "all", "trunk" (weights of several tasks), "heads" (of one), or a layer; of ranks, trunk and heads
    are medians over layers. value: in [0, 1], of ranks in [-1, 1], None = undefined. chance: what random
    masks of the same densities, layer by layer, are expected to have; 0 for ranks.
    """

    measure: str
    seed: int
    dropout: bool
    sum: str
    batches: int
    of: str
    budget: str
    part: str
    value: float | None
    chance: float | None


@dataclass(frozen=True)
class Question:
    """What is asked: seeds of initialisation and batches, batches in a set (rising), methods, budgets."""

    seeds: tuple[int, ...]
    sizes: tuple[int, ...]
    methods: tuple[Method, ...]
    budgets: tuple[str, ...]


def measure(experiment: Experiment, question: Question) -> dict[str, Any]:
    """The whole result in plain values, as it is written to JSON.

    Raises ValueError for several processes, and as methods and data do.
    """
    if experiment.fabric.world_size > 1:
        raise ValueError("noise of scores is measured by one process: --devices 1")
    values = [value for seed in question.seeds for value in _of_seed(experiment, question, seed)]
    config = experiment.config
    return {
        "format": FORMAT,
        "dataset": config.data.dataset,
        "tasks": list(experiment.tasks),
        "ratio": config.prune.ratio,
        "score_init": config.prune.score_init,
        "batch_size": config.prune.batch_size or config.data.batch_size,
        "images": len(experiment.records("train")),
        "seeds": list(question.seeds),
        "sizes": list(question.sizes),
        "methods": [row.name for row in question.methods],
        "budgets": list(question.budgets),
        "values": [value._asdict() for value in values],
        "config": as_tree(config),
        "versions": versions(),
    }


def _of_seed(experiment: Experiment, question: Question, seed: int) -> Iterator[Value]:
    config = experiment.config
    experiment = replace(experiment, config=replace(config, run=replace(config.run, seed=seed)))
    network = new_network(experiment)
    experiment.fabric.to_device(network)
    rows = {
        (row.name, budget): Pruning(_with_budget(experiment, budget), row, network)
        for row in question.methods
        for budget in question.budgets
    }
    for pruning in rows.values():
        pruning.check()
    first = next(iter(rows.values()))
    owners = first.electorate.owners
    scored = INITS[first.plan.score_init](network, seed, owners)
    voters = [voter for kind in ("tasks", "joint") for voter in first.electorate.voters(kind)]
    for (size, dropout, kind), pair in _scores(experiment, scored, voters, question.sizes):
        case = (seed, dropout, kind, size)
        made = {key: [_mask(scored, pruning, one) for one in pair] for key, pruning in rows.items()}
        for (name, budget), (one, two) in made.items():
            yield from _ious("iou", case, name, budget, [(one, two)], owners)
            large = [(mask, largest(scored, mask)) for mask in (one, two)]
            yield from _ious("magnitude", case, name, budget, large, owners)
        for a, b in combinations([row.name for row in question.methods], 2):
            for budget in question.budgets:
                (a1, a2), (b1, b2) = made[a, budget], made[b, budget]
                yield from _ious("between", case, f"{a}, {b}", budget, [(a1, b2), (b1, a2)], owners)
        yield from _ranks(case, pair, owners)


def _with_budget(experiment: Experiment, budget: str) -> Experiment:
    prune = replace(experiment.config.prune, budget=budget)
    return replace(experiment, config=replace(experiment.config, prune=prune))


def _mask(scored: nn.Module, pruning: Pruning, scores: Mapping[str, Scores]) -> Mask:
    """The mask that a method makes of these scores."""
    electorate, plan = pruning.electorate, pruning.plan
    voters = [voter.name for voter in electorate.voters(plan.voters)]
    return choose_mask(scored, plan, electorate.owners, {voter: scores[voter] for voter in voters})


def largest(network: nn.Module, mask: Mask) -> Mask:
    """The mask of the largest weights, in every layer as many as in `mask`."""
    budget = tuple(Pool((name,), count({name: kept})) for name, kept in mask.items())
    magnitudes = {name: weight.detach().abs() for name, weight in find_parameters(network, mask).items()}
    return choose({"magnitude": magnitudes}, budget, "unanimous")


# ------------------------------------------------------------------ scores of two sets of batches
Sums = dict[str, dict[str, Tensor]]  # voter -> weight -> [2, ...]: sum of |g|, sum of g


def _scores(
    experiment: Experiment, scored: nn.Module, voters: Sequence[Voter], sizes: Sequence[int]
) -> Iterator[tuple[tuple[int, bool, str], list[dict[str, Scores]]]]:
    """(size, dropout, kind of sum), and the scores of both sets, by voter.

    The sets take turns in one stream of batches, so that each grows from size to size, and no batch is
    scored twice.
    """
    networks = {True: scored, False: without_dropout(scored)}
    seed = experiment.config.run.seed
    stream = experiment.numbered_batches(2 * sizes[-1])
    sums: dict[bool, tuple[Sums, Sums]] = {dropout: ({}, {}) for dropout in networks}
    with tqdm(total=2 * sizes[-1], desc=f"scoring, seed {seed}", unit="batch") as bar:
        for before, size in zip((0, *sizes), sizes, strict=False):
            for which in (0, 1):
                batches = list(islice(stream, size - before))
                for dropout, network in networks.items():
                    found = task_gradients(network, voters, batches, seed=seed, what=_both)
                    _add(sums[dropout][which], found)
                bar.update(len(batches))
            for dropout in networks:
                for place, kind in enumerate(SUMS):
                    pair = [_saliency(scored, of, place, kind) for of in sums[dropout]]
                    yield (size, dropout, kind), pair


def _both(gradient: Tensor) -> Tensor:
    return torch.stack((gradient.abs(), gradient))


def _add(sums: Sums, found: Mapping[str, Scores]) -> None:
    for voter, of in found.items():
        known = sums.setdefault(voter, {})
        for name, part in of.items():
            known[name] = known[name] + part if name in known else part


@torch.no_grad()
def _saliency(scored: nn.Module, sums: Sums, place: int, kind: str) -> dict[str, Scores]:
    saliency, draws = find_criterion(SUMS[kind]).saliency, generator(0)
    weights = find_parameters(scored, {name for of in sums.values() for name in of})
    return {
        voter: {name: saliency(weights[name], both[place].clone(), draws) for name, both in of.items()}
        for voter, of in sums.items()
    }


def without_dropout(network: nn.Module) -> nn.Module:
    """A copy whose dropout drops nothing."""
    still = copy.deepcopy(network)
    for module in still.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return still


# ------------------------------------------------------------------ how far two sets agree
def _part(owners: frozenset[str]) -> str:
    return "trunk" if len(owners) > 1 else "heads"


def _ious(
    measure: str, case: Case, of: str, budget: str, pairs: Sequence[tuple[Mask, Mask]], owners: Owners
) -> Iterator[Value]:
    """Intersections over unions by part; those of several pairs of masks are counted together."""
    parts: dict[str, list] = {"all": [], "trunk": [], "heads": []}
    for one, two in pairs:
        for name in one:
            found = overlap({"one": one[name], "two": two[name]})
            parts["all"].append(found)
            parts[_part(owners[name])].append(found)
    for part, overlaps in parts.items():
        if overlaps:
            whole = together(overlaps)
            yield Value(measure, *case, of, budget, part, whole.agreement, whole.chance)


def _ranks(case: Case, pair: Sequence[Mapping[str, Scores]], owners: Owners) -> Iterator[Value]:
    """Rank correlations of both sets' scores, by voter and layer, and their median over a part's layers."""
    one, two = pair
    for voter in one:
        parts: dict[str, list[float]] = {}
        for name in one[voter]:
            value = spearman(one[voter][name], two[voter][name])
            yield Value("rank", *case, voter, "", name, value, 0.0)
            if value is not None:
                parts.setdefault(_part(owners[name]), []).append(value)
        for part, values in parts.items():
            yield Value("rank", *case, voter, "", part, median(values), 0.0)


def spearman(one: Tensor, two: Tensor) -> float | None:
    """The rank correlation of two tensors of one shape, in [-1, 1]; None where one of them is constant."""
    a, b = (torch.from_numpy(rankdata(values.reshape(-1).cpu().numpy())) for values in (one, two))
    a, b = a - a.mean(), b - b.mean()  # ties have the mean of their ranks
    size = (a.norm() * b.norm()).item()
    return (a @ b).item() / size if size else None
