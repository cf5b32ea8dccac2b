"""Length and rhythm of the runs of an experiment, from its settings."""

from __future__ import annotations

from dataclasses import replace

from prune_utils.methods import Method
from training.loop import Plan

from .experiment import Experiment


def training_plan(experiment: Experiment, kind: str) -> Plan:
    """The Plan of a run. kind: "full" or "finetune", as the method's row says."""
    config = experiment.config
    length = {"full": config.optim, "finetune": config.finetune}[kind]
    return Plan(
        steps=length.iterations,
        lr=length.lr,
        weight_decay=config.optim.weight_decay,
        step_every=config.optim.step_every,
        step_factor=config.optim.step_factor,
        accumulate=config.optim.accumulate,
        eval_every=config.run.eval_every,
        log_every=config.run.log_every,
        checkpoint_every=config.run.checkpoint_every,
        seed=config.run.seed,
    )


def full_plan(experiment: Experiment, method: Method | None) -> Plan:
    """Length and rhythm of a training run."""
    return training_plan(experiment, method.training if method else "full")


def rounds_plan(experiment: Experiment, method: Method) -> Plan:
    """Length and rhythm of the training between rounds of pruning."""
    prune = experiment.config.prune
    rounds = method.rounds if prune.rounds is None else prune.rounds
    return replace(training_plan(experiment, "finetune"), steps=rounds * prune.round_iterations)
