"""One training run of an experiment: steps, evaluations, files, checkpoints and resumption."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from common.interrupt import Interrupted, StopRequest
from configs.load import as_tree
from configs.schema import Finetune, Optim
from models.multitask import MultiTaskNet
from prune_utils.masks import Mask
from prune_utils.methods import Method
from training.averaging import Average
from training.boards import board_folder
from training.checkpoint import arithmetic, read_file
from training.curves import draw_curves, read_curves
from training.evaluate import evaluate, figures, headline
from training.graphs import record
from training.learner import Learner
from training.logger import MetricLogger
from training.loop import Diverged, Plan, last_good, train
from training.panels import FirstBatch, strip
from training.resume import remove_checkpoints, save_checkpoint
from training.sharing import Batch, shared_statistics
from training.sparsifier import Sparsifier
from training.weighing import Weighing

from .experiment import Experiment
from .files import Files
from .networks import rewind_path, save_network
from .origin import origin, remarks
from .processes import largest, of_all, require_same
from .pruning import Pruning
from .resuming import restore
from .weighting import make_weighing


def training_plan(experiment: Experiment, method: Method | None) -> Plan:
    """Length and rhythm of the training of a method's network; None = of the dense one."""
    return _plan(experiment, method.training if method else "full")


def rounds_plan(experiment: Experiment, method: Method) -> Plan:
    """Length and rhythm of the training between rounds of pruning."""
    prune = experiment.config.prune
    rounds = method.rounds if prune.rounds is None else prune.rounds
    return replace(_plan(experiment, "finetune"), steps=rounds * prune.round_iterations)


def _plan(experiment: Experiment, kind: str) -> Plan:
    config = experiment.config
    length = cast(Optim | Finetune, {"full": config.optim, "finetune": config.finetune}[kind])
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


@dataclass
class Run:
    """One training run, from its first step or from a checkpoint to its end.

    optimizer, sparsifier: made for `network`, which is on its device. stem: of the checkpoints and metric
    files. pruning: certifies the masks; None = the network is dense. keep_best: whether the best weights on
    the validation split are written to best_{name}.pth. averaged: whether the outcome is the moving average
    of the weights where the settings ask for one. rewind_step: after which the weights are kept for
    methods that return to them, 0 = before the first step.
    before: the origin in the file that the weights started from, or in the checkpoint. validate: whether the
    run looks at the validation split. broken: training images that this process could not read so far, by
    their places, and what was said of them.
    """

    experiment: Experiment
    network: MultiTaskNet
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier
    plan: Plan
    stem: str
    pruning: Pruning | None = None
    keep_best: bool = True
    averaged: bool = True
    rewind_step: int | None = None
    before: Sequence[str] = ()
    validate: bool = True
    best_step: int | None = None
    best_loss: float | None = None  # infinite where it was not a finite number
    broken: dict[int, str] = field(default_factory=dict)

    @cached_property
    def weighing(self) -> Weighing:
        """How the tasks are weighed. Raises as `make_weighing`."""
        return make_weighing(self.experiment, self.network)

    @cached_property
    def images(self) -> dict[str, dict[str, Any]]:
        """Which images it learns from and chooses the best weights by, for its checkpoints."""
        return self.experiment.images("train", self.experiment.config.run.select_on)

    @cached_property
    def average(self) -> Average | None:
        """Of the weights so far, where what comes out of the run is their average."""
        decay = self.experiment.config.optim.ema_decay
        return Average(self.network, decay) if decay and self.averaged else None

    @property
    def outcome(self) -> MultiTaskNet:
        """What is evaluated and kept: the network as it is now, or its average."""
        return self.network if self.average is None else cast(MultiTaskNet, self.average.network)

    @property
    def metrics_path(self) -> Path:
        return self.experiment.dest / f"{self.stem}.csv"

    @property
    def board_path(self) -> Path | None:
        return board_folder(self.experiment.config.run.logger, self.experiment.dest, self.stem)

    @property
    def mask(self) -> Mask | None:
        """What is kept now; None = the network is dense."""
        return self.sparsifier.mask

    def learner(self) -> Learner:
        """All that takes part in a step, on its device."""
        experiment, network = self.experiment, self.network
        subject: Any = torch.compile(network) if experiment.config.run.compile else network
        wrapped, optimizer = experiment.fabric.setup(subject, self.optimizer)
        parameters, owners = dict(network.named_parameters()), network.owners()
        owned = [(parameters[name], tasks) for name, tasks in owners.items()]
        recorded = record(network, self._batch()) if experiment.config.run.cuda_graphs else None
        return Learner(
            experiment.fabric,
            wrapped,
            optimizer,
            experiment.objective,
            self.sparsifier,
            self.weighing,
            owned,
            recorded,
        )

    def _batch(self) -> Tensor:
        """Images of the shape that a step trains on, black, on the device."""
        data = self.experiment.config.data
        return torch.zeros(data.batch_size, 3, data.crop, data.crop, device=self.experiment.fabric.device)

    def train(self, resume: bool = False) -> None:
        """Train to the end: `network` holds the final weights, `outcome` what is kept. Raises as `steps`."""
        for _ in self.steps(resume):
            pass

    def steps(self, resume: bool = False) -> Generator[int, None, None]:
        """Train step by step; yields 0 before the first and every step's number when it is taken.

        Logs, evaluation, best weights and checkpoints of a step follow when the next one is asked for. Raises
        Interrupted after a signal, with a checkpoint written; Diverged where a loss is not finite, or weights
        that are to be kept are not.
        """
        experiment, plan = self.experiment, self.plan
        fabric, learner = experiment.fabric, self.learner()
        average = self.average  # begins with the first weights
        _ = self.images  # as the index is now
        start = restore(self, learner) if resume else 0
        if start and self.keep_best and self.best_step is not None and not self._best_is_there():
            self.best_step = self.best_loss = None  # lost: the next validation counts as the first
        require_same(fabric, "the step to go on from", start)
        if start == 0:
            if fabric.is_global_zero:
                remove_checkpoints(experiment.dest, self.stem)  # of a run that is replaced
            self._keep_early_weights(0)
            yield 0
        validation = experiment.evaluation_stream(experiment.config.run.select_on)
        kind = experiment.config.run.logger
        logger = MetricLogger(self.metrics_path, kind, plan.steps, start, fabric.is_global_zero)
        stop = StopRequest()
        try:
            with shared_statistics(self.network, fabric), stop:
                for step, losses, moved, weighed in train(learner, plan, self._batches(start, logger), start):
                    logger.add(step, "mask", moved)
                    if average:
                        average.update(self.mask or {})
                    self._keep_early_weights(step)
                    yield step
                    last = step == plan.steps
                    if step % plan.log_every == 0 or last:
                        logger.add(step, "train", losses | {"lr": plan.lr_at(step)})
                    if step % plan.log_every == 0 or last or self.weighing.measures(step):
                        logger.add(step, "tasks", weighed)
                    logger.tick(step, {"loss": losses["total"]} if losses else None)
                    looks = step % plan.eval_every == 0 or last
                    if looks:  # no file is to hold other weights, neither the best nor the last ones
                        self._require_finite(step, start)
                    if looks and self.validate:
                        self._evaluate(step, validation, logger)
                    signal = largest(fabric, stop.number or 0)
                    if step % plan.checkpoint_every == 0 or signal:
                        self._require_finite(step, start)
                        logger.sync()
                        self._save_checkpoint(step, learner)
                    if signal:  # of the last step, too: whoever asked for the run has more to do
                        fabric.barrier()  # nobody leaves before the checkpoint is written
                        raise Interrupted(signal, f"stopped after step {step}")
        except Diverged as error:
            if stop.number is None:
                raise
            raise Interrupted(stop.number, f"stopped: {error}") from error
        finally:
            logger.close()

    def save(self, path: Path, step: int) -> None:
        """Write the outcome as it is now, with its mask and certificate."""
        mask = self.mask
        certificate = None if mask is None or self.pruning is None else self.pruning.certify(mask)
        if self.experiment.fabric.is_global_zero:
            save_network(
                self.experiment,
                path,
                self.outcome,
                mask=mask,
                certificate=certificate,
                step=step,
                conflicts=self.weighing.summary,
                before=self.before,
            )

    def draw(self) -> Files:
        """The learning curves beside the CSV; none where the settings say so."""
        run = self.experiment.config.run
        if not run.curves or not self.experiment.fabric.is_global_zero:
            return []
        path = self.metrics_path.with_suffix(".png")
        title = ", ".join([self.experiment.name, *remarks(self.experiment.config)])
        draw_curves({"validation": read_curves(self.metrics_path)}, path, run.protocol, title)
        return [(path, "learning curves")]

    def finish(self) -> None:
        """Drop the checkpoints: the final weights are on disk."""
        if self.experiment.fabric.is_global_zero:
            remove_checkpoints(self.experiment.dest, self.stem)

    def _batches(self, start: int, logger: MetricLogger) -> Iterator[Batch]:
        """The training stream; samples that could not be read are counted in the logger."""
        stream = self.experiment.training_stream(start, self.plan.steps)
        stream.broken |= self.broken
        self.broken, told = stream.broken, len(stream.broken)
        for step, batch in enumerate(stream, start + 1):
            if len(stream.broken) > told:
                told = len(stream.broken)
                logger.add(step, "data", {"unreadable": told})
            yield batch

    def _keep_early_weights(self, step: int) -> None:
        if step == self.rewind_step and self.experiment.fabric.is_global_zero:
            path = rewind_path(self.experiment, self.experiment.name)
            save_network(self.experiment, path, self.network, step=step, before=self.before)

    def _evaluate(self, step: int, validation: Iterable[Batch], logger: MetricLogger) -> None:
        """Validate, keep the best weights. The first evaluation always counts, a NaN never wins later."""
        experiment = self.experiment
        kept = FirstBatch()
        scores = evaluate(
            self.outcome,
            experiment.tasks,
            validation,
            fabric=experiment.fabric,
            loss_weights=experiment.objective.weights,
            progress=kept.of,
        )
        found = figures(scores)
        logger.add(step, "evaluate", found)
        logger.show(headline(scores, experiment.tasks, experiment.config.run.protocol))
        if kept.batch and self.board_path and experiment.fabric.is_global_zero:
            shown = strip(self.outcome, experiment.tasks, kept.batch, fabric=experiment.fabric)
            logger.picture(step, "validation", shown)
        loss = found["loss/total"] if math.isfinite(found["loss/total"]) else math.inf
        # of a network that is denser than asked nothing is kept
        if self.sparsifier.ready and (self.best_loss is None or loss < self.best_loss):
            self.best_step, self.best_loss = step, loss
            if self.keep_best:
                self.save(experiment.best_path, step)

    def _require_finite(self, step: int, start: int) -> None:
        """Diverged, with the name of the first tensor that is not finite after this step."""
        for name, value in self.network.state_dict().items():
            if not torch.isfinite(value).all():
                raise Diverged(
                    f"tensor '{name}' is not finite after step {step}, and is not saved; "
                    f"{last_good(self.plan, step, start)} (a smaller --lr may help)"
                )

    def _best_is_there(self) -> bool:
        """Whether the best weights on disk are those that the checkpoint knows.

        A killed run may have replaced them since, by others that not every machine comes to again.
        """
        try:
            return bool(read_file(self.experiment.best_path).get("step") == self.best_step)
        except (ValueError, OSError):
            return False

    def _save_checkpoint(self, step: int, learner: Learner) -> None:
        broken = of_all(self.experiment.fabric, sorted(self.broken))
        if self.experiment.fabric.is_global_zero:
            content = {
                "network": self.network.state_dict(),
                "optimizer": learner.optimizer.state_dict(),
                "scaler": learner.fabric.strategy.precision.state_dict(),
                "sparsifier": self.sparsifier.state_dict(),
                "weighing": self.weighing.state_dict(),
                "best": self.best_loss,
                "outcome": {"best_step": self.best_step, "best_loss": self.best_loss},
                "method": self.experiment.method,
                "settings": as_tree(self.experiment.config),
                **arithmetic(),
                "images": self.images,
                "broken": broken,
                "origin": origin(self.before, self.experiment.config),
            }
            if self.average:
                content["average"] = self.average.state_dict()
            save_checkpoint(self.experiment.dest, self.stem, step, content)
