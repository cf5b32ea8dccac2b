"""One training run of an experiment: the loop of training/loop.py with files, checkpoints and resumption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from training.sharing import shared_statistics
from training.sparsifier import Sparsifier

from .experiment import Experiment
from .processes import require_same

# settings that change speed or paths, not the result: a resumed run may change them
FREE = {
    "data": ("root", "num_workers", "cache"),
    "run": ("device", "devices", "checkpoint_every", "compile", "preflight"),
}


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
        learner = Learner(fabric, network, optimizer, experiment.objective, self.sparsifier(optimizer))
        state = self._resume(learner) if resume else None
        start, best = (state["step"], state["best"]) if state else (0, None)
        require_same(fabric, "the step to go on from", start)
        outcome = dict(state["outcome"]) if state else {"best_step": None, "best_loss": None}
        if start == 0 and fabric.is_global_zero:
            remove_checkpoints(experiment.dest, self.stem)  # of a run that is replaced
        record = Record(self.metrics_path, self.board_path, plan.steps, start, fabric.is_global_zero)
        hooks = self._hooks(learner, record, outcome, at_step)
        if start == 0:
            at_step(0)
        try:
            with shared_statistics(self.network, fabric):
                train(learner, plan, hooks, record, start, best)
        finally:
            record.close()
        return outcome | {"mask": mask_of(learner.sparsifier)}

    def _hooks(
        self, learner: Learner, record: Record, outcome: dict, at_step: Callable[[int], None]
    ) -> Hooks:
        experiment = self.experiment
        validation = experiment.evaluation_stream(experiment.config.run.select_on)

        def validate() -> dict[str, float]:
            weights = experiment.objective.weights
            return figures(
                evaluate(
                    self.network,
                    experiment.tasks,
                    validation,
                    fabric=experiment.fabric,
                    loss_weights=weights,
                )
            )

        def keep_best(step: int, loss: float) -> None:
            outcome.update(best_step=step, best_loss=loss)
            if self.keep_best:
                self.save(experiment.best_path, mask_of(learner.sparsifier), step)

        def save(step: int, best: float | None) -> None:
            record.sync()
            self._require_finite_weights(step)
            if experiment.fabric.is_global_zero:
                content = self._checkpoint(learner, outcome) | {"best": best}
                save_checkpoint(experiment.dest, self.stem, step, content)

        return Hooks(self._batches(record), validate, keep_best, save, at_step)

    def _batches(self, record: Record) -> Callable[[int, int], Iterator]:
        """The training stream; samples that could not be read are counted in the record."""

        def batches(start: int, stop: int) -> Iterator:
            stream, told = self.experiment.training_stream(start, stop), 0
            for step, batch in enumerate(stream, start + 1):
                if len(stream.broken) > told:
                    told = len(stream.broken)
                    record.add(step, "data", {"unreadable": told})
                yield batch

        return batches

    def save(self, path: Path, mask: dict | None, step: int) -> None:
        """Write the network as it is now, with its mask (None = dense) and certificate."""
        certificate = None if mask is None else self.certify(mask)
        if self.experiment.fabric.is_global_zero:
            self.experiment.save_network(path, self.network, mask=mask, certificate=certificate, step=step)

    def finish(self) -> None:
        """Drop the checkpoints: the final weights are on disk."""
        if self.experiment.fabric.is_global_zero:
            remove_checkpoints(self.experiment.dest, self.stem)

    def _require_finite_weights(self, step: int) -> None:
        for name, value in self.network.state_dict().items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"tensor '{name}' is not finite after step {step}, no checkpoint of it is written: "
                    "the last one is good (a smaller --lr may help)"
                )

    def _checkpoint(self, learner: Learner, outcome: dict) -> dict:
        return {
            "network": self.network.state_dict(),
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.fabric.strategy.precision.state_dict(),
            "sparsifier": learner.sparsifier.state_dict(),
            "outcome": outcome,
            "settings": fixed_settings(as_tree(self.experiment.config)),
        }

    def _resume(self, learner: Learner) -> dict | None:
        """Load the newest checkpoint into all parts; None where there is none yet."""
        experiment = self.experiment
        state = latest_checkpoint(experiment.dest, self.stem, experiment.say)
        if state is None:
            return None
        require_same_settings(state["settings"], fixed_settings(as_tree(experiment.config)), self.stem)
        load_state(self.network, state["network"], f"checkpoint of {self.stem}")
        learner.optimizer.load_state_dict(state["optimizer"])
        learner.fabric.strategy.precision.load_state_dict(state["scaler"])
        learner.sparsifier.load_state_dict(state["sparsifier"])
        if experiment.fabric.is_global_zero:
            remove_checkpoints(experiment.dest, self.stem, after=state["step"])
        return state


def mask_of(sparsifier: Sparsifier) -> dict | None:
    """The mask that a sparsifier holds; None for a dense network."""
    return getattr(sparsifier, "mask", None)


def fixed_settings(tree: dict) -> dict:
    """The settings that a resumed run must share with the run that it continues."""
    return {
        section: {field: value for field, value in fields.items() if field not in FREE.get(section, ())}
        for section, fields in tree.items()
    }


def require_same_settings(before: dict, now: dict, what: str) -> None:
    """ValueError names the first setting of fixed_settings that is not what it was."""
    for section, fields in now.items():
        for field, value in fields.items():
            was = before.get(section, {}).get(field)
            if was != value:
                raise ValueError(
                    f"{what} was started with {section}.{field}={was}, this command says {value}: "
                    "resume with the same settings or start anew with --overwrite"
                )
