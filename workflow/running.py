"""One training run of an experiment: the loop of training/loop.py with files, checkpoints and resumption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.load import as_tree
from models.multitask import MultiTaskNet
from training.checkpoint import load_state
from training.evaluate import evaluate, figures
from training.loop import Hooks, Learner, Plan, make_optimizer, train
from training.record import Record
from training.resume import latest_checkpoint, remove_checkpoints, save_checkpoint
from training.sparsifier import Sparsifier

from .experiment import Experiment

# settings that change speed or paths, not the result: a resumed run may change them
FREE = {"data": ("root", "num_workers", "cache"), "run": ("device", "devices", "checkpoint_every", "compile")}


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


@dataclass(frozen=True)
class Run:
    """What is to be trained. certify(mask) -> certificate; stem: of the checkpoints and metric files.

    keep_best: whether the best weights on the validation split are written to best_{name}.pth.
    """

    experiment: Experiment
    network: MultiTaskNet
    sparsifier: Callable[[torch.optim.Optimizer], Sparsifier]
    plan: Plan
    certify: Callable[[dict], dict]
    stem: str
    keep_best: bool = True

    @property
    def metrics_path(self) -> Path:
        return self.experiment.dest / f"{self.stem}.csv"

    @property
    def board_path(self) -> Path:
        return self.experiment.dest / "tensorboard" / self.stem

    def __call__(self, resume: bool = False, at_step: Callable[[int], None] = lambda step: None) -> dict:
        """Train to the end. Returns {"mask", "best_step", "best_loss"}; the network holds the final weights.

        at_step(step) is called after every step, and with 0 before the first. Raises what `train` raises.
        """
        experiment, plan = self.experiment, self.plan
        fabric = experiment.fabric
        optimizer = make_optimizer(self.network, plan)
        subject = torch.compile(self.network) if experiment.config.run.compile else self.network
        network, optimizer = fabric.setup(subject, optimizer)
        sparsifier = self.sparsifier(optimizer)
        state = self._resume(optimizer, sparsifier) if resume else None
        start, best = (state["step"], state["best"]) if state else (0, None)
        outcome = dict(state["outcome"]) if state else {"best_step": None}
        record = Record(self.metrics_path, self.board_path, plan.steps, start, fabric.is_global_zero)
        validation = experiment.evaluation_stream(experiment.config.run.select_on)

        def validate() -> dict[str, float]:
            weights = experiment.objective.weights
            return figures(
                evaluate(self.network, experiment.tasks, validation, fabric=fabric, loss_weights=weights)
            )

        def keep_best(step: int) -> None:
            outcome["best_step"] = step
            if self.keep_best:
                self.save(experiment.best_path, mask_of(sparsifier), step)

        def save(step: int, best: float | None) -> None:
            if fabric.is_global_zero:
                content = self._checkpoint(optimizer, sparsifier, outcome)
                save_checkpoint(experiment.dest, self.stem, step, content | {"step": step, "best": best})

        if start == 0:
            at_step(0)
        learner = Learner(fabric, network, optimizer, experiment.objective, sparsifier)
        hooks = Hooks(experiment.training_stream, validate, keep_best, save, at_step)
        try:
            train(learner, plan, hooks, record, start, best)
        finally:
            record.close()
        return outcome | {"mask": mask_of(sparsifier)}

    def save(self, path: Path, mask: dict | None, step: int) -> None:
        """Write the network as it is now, with its mask (None = dense) and certificate."""
        certificate = None if mask is None else self.certify(mask)
        if self.experiment.fabric.is_global_zero:
            self.experiment.save_network(path, self.network, mask=mask, certificate=certificate, step=step)

    def finish(self) -> None:
        """Drop the checkpoints: the final weights are on disk."""
        if self.experiment.fabric.is_global_zero:
            remove_checkpoints(self.experiment.dest, self.stem)

    def _checkpoint(self, optimizer, sparsifier: Sparsifier, outcome: dict) -> dict:
        return {
            "network": self.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "sparsifier": sparsifier.state_dict(),
            "outcome": outcome,
            "settings": _fixed(as_tree(self.experiment.config)),
        }

    def _resume(self, optimizer, sparsifier: Sparsifier) -> dict | None:
        """Load the newest checkpoint into all parts; None where there is none yet."""
        state = latest_checkpoint(self.experiment.dest, self.stem)
        if state is None:
            return None
        _require_same_settings(state["settings"], _fixed(as_tree(self.experiment.config)), self.stem)
        load_state(self.network, state["network"], f"checkpoint of {self.stem}")
        optimizer.load_state_dict(state["optimizer"])
        sparsifier.load_state_dict(state["sparsifier"])
        return state


def mask_of(sparsifier: Sparsifier) -> dict | None:
    """The mask that a sparsifier holds; None for a dense network."""
    return getattr(sparsifier, "mask", None)


def _fixed(tree: dict) -> dict:
    """The settings that a resumed run must share with the run that it continues."""
    return {
        section: {field: value for field, value in fields.items() if field not in FREE.get(section, ())}
        for section, fields in tree.items()
    }


def _require_same_settings(before: dict, now: dict, stem: str) -> None:
    for section, fields in now.items():
        for field, value in fields.items():
            was = before.get(section, {}).get(field)
            if was != value:
                raise ValueError(
                    f"{stem} was started with {section}.{field}={was}, this command says {value}: "
                    "resume with the same settings or start anew with --overwrite"
                )
