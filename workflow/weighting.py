"""How an experiment weighs its tasks in training: the setting `weighting.method` brought to life."""

from __future__ import annotations

from common.choices import not_one_of
from configs.schema import Config
from models.multitask import MultiTaskNet
from prune_utils.weightings import WEIGHTINGS, Solver, require
from training.rules import SCALARIZERS, FromGradients
from training.weighing import Rule, Weighing

from .experiment import Experiment

FIXED = "fixed"
CHOICES = (FIXED, *WEIGHTINGS, *SCALARIZERS)


def check_weighting(config: Config) -> None:
    """ValueError before any work for a method, a package or references that are not there."""
    name, asked = config.weighting.method, config.weighting
    if name not in CHOICES:
        raise ValueError(not_one_of("weighting", name, CHOICES))
    row = WEIGHTINGS.get(name) or SCALARIZERS.get(name)  # None: fixed
    if asked.strength is not None and (row is None or row.strength is None):
        raise ValueError(f"weighting {name} has no strength, and weighting.strength is {asked.strength:g}")
    if name in SCALARIZERS and SCALARIZERS[name].needs_references:
        _check_references(config)
    elif asked.references:
        task, loss = next(iter(asked.references.items()))
        raise ValueError(
            f"weighting {name} compares with no network, and weighting.references.{task} is {loss:g}: "
            "leave it out, or choose --weighting min_max"
        )
    if row is not None:
        require(name, WEIGHTINGS[name].needs if name in WEIGHTINGS else ())


def _check_references(config: Config) -> None:
    """ValueError unless every task has the loss of a network for it alone, and no other."""
    name, references = config.weighting.method, config.weighting.references
    for task in config.data.tasks:
        if task not in references:
            raise ValueError(
                f"weighting {name} compares with networks for one task alone and has no reference of "
                f"task '{task}': --set weighting.references.{task}=LOSS, to be found under 'loss' in "
                f"the result of a run with --tasks {task}"
            )
    for task, loss in references.items():
        if task not in config.loss_weights:
            raise ValueError(not_one_of("task", task, config.loss_weights, "weighting.references."))
        if not 0 < loss < float("inf"):
            raise ValueError(f"weighting.references.{task} is {loss:g}, it must be above 0 and finite")


def make_weighing(experiment: Experiment, network: MultiTaskNet) -> Weighing:
    """The weighing of one training run. Raises as `check_weighting`."""
    check_weighting(experiment.config)
    shared = frozenset(name for name, tasks in network.owners().items() if len(tasks) > 1)
    every = experiment.config.weighting.conflicts_every
    return Weighing(tuple(experiment.tasks), shared, _rule(experiment), every)


def _rule(experiment: Experiment) -> Rule | None:
    name, asked = experiment.config.weighting.method, experiment.config.weighting
    tasks = tuple(experiment.tasks)
    if name == FIXED:
        return None
    row = WEIGHTINGS.get(name) or SCALARIZERS[name]
    strength = asked.strength if asked.strength is not None else row.strength or 0.0
    if name in WEIGHTINGS:
        return FromGradients(Solver(name, len(tasks), strength))
    weights = experiment.objective.weights
    references = tuple(weights[task] * asked.references.get(task, 1.0) for task in tasks)
    return SCALARIZERS[name].make(len(tasks), strength, _epoch(experiment), references)


def _epoch(experiment: Experiment) -> int:
    """Steps that show as many images as there are."""
    return max(1, len(experiment.records("train")) // experiment.config.data.batch_size)
