"""One training run of an experiment: steps, evaluations, files, checkpoints and resumption."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch

from common.interrupt import Interrupted, StopRequest
from common.tensors import flaw, mask_flaw
from configs.load import as_tree
from configs.schema import Finetune, Optim
from models.multitask import MultiTaskNet
from prune_utils.masks import Mask
from prune_utils.methods import Method
from training.averaging import Average
from training.boards import board_folder
from training.checkpoint import check_origin, check_state, load_state
from training.curves import draw_curves, read_curves
from training.evaluate import evaluate, figures, headline
from training.learner import Learner
from training.logger import MetricLogger
from training.loop import Plan, train
from training.panels import FirstBatch, strip
from training.resume import (
    check_optimizer,
    latest_checkpoint,
    load_optimizer,
    remove_checkpoints,
    save_checkpoint,
)
from training.sharing import Batch, shared_statistics
from training.sparsifier import Sparsifier
from training.weighing import Weighing

from .experiment import Experiment
from .files import Files, require_same_settings
from .networks import rewind_path, save_network
from .origin import origin, remarks
from .processes import largest, require_same
from .pruning import Pruning
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
    the validation split are written to best_{name}.pth, of the moving average where the settings ask for one.
    rewind_step: after which the weights are kept for
    methods that return to them, 0 = before the first step.
    before: the origin in the file that the weights started from, or in the checkpoint. validate: whether the
    run looks at the validation split.
    """

    experiment: Experiment
    network: MultiTaskNet
    optimizer: torch.optim.Optimizer
    sparsifier: Sparsifier
    plan: Plan
    stem: str
    pruning: Pruning | None = None
    keep_best: bool = True
    rewind_step: int | None = None
    before: Sequence[str] = ()
    validate: bool = True
    best_step: int | None = None
    best_loss: float | None = None  # infinite where it was not a finite number

    @cached_property
    def weighing(self) -> Weighing:
        """How the tasks are weighed. Raises as `make_weighing`."""
        return make_weighing(self.experiment, self.network)

    @cached_property
    def average(self) -> Average | None:
        """Of the weights so far, where what comes out of the run is their average."""
        decay = self.experiment.config.optim.ema_decay
        return Average(self.network, decay) if decay and self.keep_best else None

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
        return getattr(self.sparsifier, "mask", None)

    def train(self, resume: bool = False) -> None:
        """Train to the end: `network` holds the final weights, `outcome` what is kept. Raises as `steps`."""
        for _ in self.steps(resume):
            pass

    def steps(self, resume: bool = False) -> Generator[int, None, None]:
        """Train step by step; yields 0 before the first and every step's number when it is taken.

        Logs, evaluation, best weights and checkpoints of a step follow when the next one is asked for. Raises
        Interrupted after a signal, with a checkpoint written; ValueError where a loss is not finite.
        """
        experiment, plan = self.experiment, self.plan
        fabric = experiment.fabric
        subject: Any = torch.compile(self.network) if experiment.config.run.compile else self.network
        network, optimizer = fabric.setup(subject, self.optimizer)
        parameters, owners = dict(self.network.named_parameters()), self.network.owners()
        owned = [(parameters[name], tasks) for name, tasks in owners.items()]
        learner = Learner(
            fabric, network, optimizer, experiment.objective, self.sparsifier, self.weighing, owned
        )
        average = self.average  # begins with the first weights
        start = self._resume(learner) if resume else 0
        require_same(fabric, "the step to go on from", start)
        if start == 0:
            if fabric.is_global_zero:
                remove_checkpoints(experiment.dest, self.stem)  # of a run that is replaced
            self._keep_early_weights(0)
            yield 0
        validation = experiment.evaluation_stream(experiment.config.run.select_on)
        kind = experiment.config.run.logger
        logger = MetricLogger(self.metrics_path, kind, plan.steps, start, fabric.is_global_zero)
        try:
            with shared_statistics(self.network, fabric), StopRequest() as stop:
                for step, losses, moved, weighed in train(learner, plan, self._batches(start, logger), start):
                    logger.add(step, "mask", moved)
                    if average:
                        average.update(self.network, self.mask or {})
                    self._keep_early_weights(step)
                    yield step
                    last, signal = step == plan.steps, largest(fabric, stop.number or 0)
                    if step % plan.log_every == 0 or last:
                        logger.add(step, "train", losses | {"lr": plan.lr_at(step)})
                    if step % plan.log_every == 0 or last or self.weighing.measures(step):
                        logger.add(step, "tasks", weighed)
                    logger.tick(step, {"loss": losses["total"]} if losses else None)
                    if self.validate and (step % plan.eval_every == 0 or last):
                        self._evaluate(step, validation, logger)
                    if step % plan.checkpoint_every == 0 or signal:
                        logger.sync()
                        self._save_checkpoint(step, learner)
                    if signal and not last:
                        fabric.barrier()  # nobody leaves before the checkpoint is written
                        raise Interrupted(signal, f"stopped after step {step}")
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
        stream, told = self.experiment.training_stream(start, self.plan.steps), 0
        for step, batch in enumerate(stream, start + 1):
            if len(stream.broken) > told:
                told = len(stream.broken)
                logger.add(step, "data", {"unreadable": told})
            yield batch

    def _keep_early_weights(self, step: int) -> None:
        if step == self.rewind_step and self.experiment.fabric.is_global_zero:
            save_network(
                self.experiment, rewind_path(self.experiment), self.network, step=step, before=self.before
            )

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

    def _save_checkpoint(self, step: int, learner: Learner) -> None:
        for name, value in self.network.state_dict().items():
            if not torch.isfinite(value).all():
                raise ValueError(
                    f"tensor '{name}' is not finite after step {step}, no checkpoint of it is written: "
                    "the last one is good (a smaller --lr may help)"
                )
        if self.experiment.fabric.is_global_zero:
            content = {
                "network": self.network.state_dict(),
                "optimizer": learner.optimizer.state_dict(),
                "scaler": learner.fabric.strategy.precision.state_dict(),
                "sparsifier": self.sparsifier.state_dict(),
                "weighing": self.weighing.state_dict(),
                "best": self.best_loss,
                "outcome": {"best_step": self.best_step, "best_loss": self.best_loss},
                "settings": as_tree(self.experiment.config),
                "threads": torch.get_num_threads(),
                "origin": origin(self.before, self.experiment.config),
            }
            if self.average:
                content["average"] = self.average.state_dict()
            save_checkpoint(self.experiment.dest, self.stem, step, content)

    def _resume(self, learner: Learner) -> int:
        """Load the newest checkpoint into all parts; the step that it is of, 0 where there is none yet."""
        experiment = self.experiment

        def check(state: dict[str, Any]) -> None:
            self._check(state, learner)

        state = latest_checkpoint(experiment.dest, self.stem, experiment.say, check)
        if state is None:
            return 0
        threads = torch.get_num_threads()
        if state.get("threads", threads) != threads:
            experiment.say(
                f"{self.stem} ran with {state['threads']} threads and goes on with {threads}: sums are taken "
                "in another order, the last bits may differ from those of an uninterrupted run"
            )
        load_state(self.network, state["network"], f"checkpoint of {self.stem}")
        load_optimizer(learner.optimizer, state["optimizer"])
        learner.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.sparsifier.load_state_dict(state["sparsifier"])
        if "weighing" in state:
            self.weighing.load_state_dict(state["weighing"])
        if self.average:
            self.average.load_state_dict(state["average"], state["step"])
        self.before = state.get("origin", [])
        self.best_step, self.best_loss = state["outcome"]["best_step"], state["best"]
        if experiment.fabric.is_global_zero:
            remove_checkpoints(experiment.dest, self.stem, after=state["step"])
        return state["step"]

    def _check(self, state: dict[str, Any], learner: Learner) -> None:
        """ValueError for a checkpoint that is damaged or forged, OtherRun for one with other settings."""
        source, step = f"checkpoint of {self.stem}", state["step"]
        for name in ("settings", "outcome", "network", "scaler", "sparsifier"):
            if not isinstance(state[name], dict):
                raise ValueError(f"{source}: field '{name}' is a {type(state[name]).__name__}, not a dict")
        require_same_settings(state["settings"], self.experiment, self.stem)
        check_origin(state, source)
        if not 0 < step <= self.plan.steps:
            raise ValueError(f"{source}: step {step} is none of a run of {self.plan.steps}")
        best_step = state["outcome"].get("best_step")
        known = best_step is None or (type(best_step) is int and 0 < best_step <= step)
        if (
            not known
            or not isinstance(state["best"], float | None)
            or (best_step is None) != (state["best"] is None)
        ):
            raise ValueError(f"{source}: its best step or score is none of this run")
        check_state(self.network, state["network"], source)
        if self.average:
            if not isinstance(state.get("average"), dict):
                raise ValueError(f"{source}: it lacks 'average', the moving average of the weights")
            check_state(self.average.network, state["average"], f"{source}, average")
        check_optimizer(self.optimizer, state["optimizer"], step)
        scaler = learner.fabric.strategy.precision.state_dict()
        if {name: type(value) for name, value in state["scaler"].items()} != {
            name: type(value) for name, value in scaler.items()
        }:
            raise ValueError(f"{source}: its loss scale is not that of this precision")
        own, theirs = self.sparsifier.state_dict(), state["sparsifier"]
        if set(theirs) != set(own):
            raise ValueError(f"{source}: the state of its mask is not that of this method")
        for name, value in theirs.items():
            wrong = _unlike(value, own[name], step)
            if wrong:
                raise ValueError(f"{source}: '{name}' of its mask {wrong}")
        if "weighing" in state:  # earlier versions had none, and nothing to remember
            wrong = _unlike(state["weighing"], self.weighing.state_dict(), step)
            if wrong:
                raise ValueError(f"{source}: the state of its weighing {wrong}")
        for name, kept in own.get("mask", {}).items():
            found = theirs["mask"][name].to(kept.device)
            steady = getattr(self.sparsifier, "steady", False) and found.sum() != kept.sum()
            if steady or not (self.sparsifier.moves or torch.equal(found, kept)):
                raise ValueError(f"{source}: its mask of '{name}' is not one that this run can have")


def _unlike(value: Any, own: Any, step: int) -> str:
    """What keeps a value of a checkpoint from taking the place of the run's own; "" for nothing.

    Numbers count something that happens at most once a step. Where the run has nothing yet, anything goes.
    """
    if own is None or value is None:
        return "" if own is None else "is missing"
    if isinstance(own, dict):
        if not isinstance(value, dict) or set(value) != set(own):
            return "is not of the layers of this network"
        return next((wrong for name in own if (wrong := _unlike(value[name], own[name], step))), "")
    if isinstance(own, torch.Tensor):
        return (mask_flaw if own.dtype == torch.bool else flaw)(value, own)
    if type(value) is not type(own) or (type(own) is int and not 0 <= value <= step):
        return f"is {str(value)[:40]!r}"
    return ""
