"""Train a network: the dense one, a sparse one that was made before, or one whose mask moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.names import BASELINE
from configs.schema import Config
from prune_utils.methods import Method
from prune_utils.prune import check_plan
from training.checkpoint import load_state
from training.loop import make_optimizer
from training.sparsifier import Dense

from .experiment import Experiment
from .files import Files, Options, finished_before, refuse_other_run, remove_replaced
from .networks import (
    Saved,
    check_export,
    exported,
    load_network,
    moved,
    new_network,
    refuse_export,
    rewind_path,
    save_network,
)
from .pruning import Pruning, mask_changes
from .running import Run, training_plan
from .weighting import check_weighting


def training_stem(experiment: Experiment) -> str:
    """Of the checkpoints and figures of a training run."""
    return f"{experiment.name}_training"


def written(experiment: Experiment) -> list[Path]:
    """What `launch` writes, and --overwrite replaces."""
    figures = experiment.dest / f"{training_stem(experiment)}.csv"
    early = [rewind_path(experiment, experiment.name)] if experiment.method == BASELINE else []
    return [experiment.best_path, experiment.final_path, figures, *early]


def refuse_launch(experiment: Experiment, options: Options) -> None:
    """ValueError if `launch` would touch another run's files, or tasks cannot be weighed as asked."""
    check_weighting(experiment.config)
    stem, paths = training_stem(experiment), written(experiment)
    refuse_other_run(experiment, paths, stem, options)
    others = [experiment.pruned_path, twin_path(experiment), experiment.dest / f"{stem}.png"]
    prefix = experiment.dataset.trained_prefix
    refuse_export(experiment, options, [*paths, *others], experiment.best_path, prefix)


def check_rewind_step(config: Config) -> None:
    """ValueError where dense training ends before the step whose weights it is to keep."""
    step, steps = config.prune.rewind_step, config.optim.iterations
    if step > steps:
        raise ValueError(
            f"--rewind-step {step} is after the end of dense training, which takes {steps} steps: "
            f"choose from 0 to {steps}"
        )


def launch(experiment: Experiment, method: Method | None, options: Options) -> tuple[str, Files]:
    """Train the dense network (method None) or a sparse one; returns what was done, and the files."""
    refuse_launch(experiment, options)
    prefix = experiment.dataset.trained_prefix
    if finished_before(experiment, experiment.final_path, training_stem(experiment), options):
        kept = [(path, "unchanged") for path in (experiment.best_path, experiment.final_path)]
        kept += exported(experiment, options, experiment.best_path, prefix)
        return f"{experiment.name} was finished before.", kept
    run, source = training_run(experiment, method, options)
    remove_replaced(experiment, written(experiment), options)
    run.train(options.resume)
    run.save(experiment.final_path, run.plan.steps)
    twin = save_twin(run)
    done = f"trained {run.plan.steps} steps from {source}; best weights at step {run.best_step}"
    files: Files = [
        (experiment.best_path, f"the best weights on {experiment.config.run.select_on}"),
        (experiment.final_path, "the last weights"),
        (run.metrics_path, "every figure of the run"),
        *run.draw(),
        *([(run.board_path, "the same and pictures for its viewer")] if run.board_path else []),
        *twin,
        *exported(experiment, options, experiment.best_path, prefix),
    ]
    run.finish()  # last: until then --resume writes again what is missing
    return done, files


def twin_path(experiment: Experiment) -> Path:
    """Of the dense network beside the sparse one."""
    return experiment.dest / f"dense_{experiment.name}.pth"


def save_twin(run: Run) -> Files:
    """Write the dense network that a method with dense phases leaves beside the sparse one; else nothing."""
    experiment, state = run.experiment, getattr(run.sparsifier, "twin", None)
    if state is None or not experiment.fabric.is_global_zero:
        return []
    path, network = twin_path(experiment), new_network(experiment)
    load_state(network, {name: value.cpu() for name, value in state.items()}, "the dense twin")
    save_network(experiment, path, network, step=run.plan.steps, before=run.before)
    return [(path, "the dense twin, as the last dense phase left it")]


def training_run(experiment: Experiment, method: Method | None, options: Options) -> tuple[Run, str]:
    """The run that `launch` performs, and what its weights are; complains before any training."""
    experiment.check_dest()
    experiment.check_data("train", experiment.config.run.select_on)
    saved, source = trainee(experiment, method, options)
    network = moved(experiment, saved.network)
    check_export(options.export_published, network)
    plan, stem = training_plan(experiment, method), training_stem(experiment)
    optimizer = make_optimizer(network, plan)
    if method is None:
        rewind = experiment.config.prune.rewind_step
        run = Run(
            experiment, network, optimizer, Dense(), plan, stem, rewind_step=rewind, before=saved.origin
        )
        return run, source
    if saved.mask is None:
        pruning = Pruning(experiment, method, network, given=bool(options.init_from))
        mask = pruning.make_mask()
        source = f"{source}, {pruning.starts}"
    else:
        pruning = Pruning(experiment, method, network, asked_of(saved), made=True)
        pruning.check_certificate(saved.content.get("certificate"), source, options.said)
        mask = {name: kept.to(experiment.fabric.device) for name, kept in saved.mask.items()}
    if not pruning.plan.removes:
        check_plan(network, pruning.plan, pruning.electorate.owners)
    sparsifier = pruning.sparsifier(mask, optimizer, plan.steps)
    if sparsifier.moves and not mask_changes(experiment, method, plan.steps):
        dynamic = experiment.config.dynamic
        experiment.say(
            f"the mask never moves: dynamic.until {dynamic.until:g} of {plan.steps} steps is over before "
            f"dynamic.every {dynamic.every:g}"
        )
    run = Run(experiment, network, optimizer, sparsifier, plan, stem, pruning, before=saved.origin)
    return run, source


def trainee(experiment: Experiment, method: Method | None, options: Options) -> tuple[Saved, str]:
    """The network that training starts from, and what it is called in the closing table.

    FileNotFoundError or ValueError where the method needs a mask and there is none.
    """
    if options.init_from:
        saved, source = load_network(experiment, Path(options.init_from)), options.init_from
    elif method is not None and experiment.pruned_path.is_file():
        saved, source = load_network(experiment, experiment.pruned_path), str(experiment.pruned_path)
    else:
        saved, source = Saved(Path(), new_network(experiment), None, {}), "a new initialisation"
    if method is None and saved.mask is not None:
        raise ValueError(
            f"{source} holds a sparse network, and --method {BASELINE} would drop its mask: give the method "
            "that made it, or a dense network"
        )
    if method is None or saved.mask is not None or method.by_itself:
        return saved, source
    make = f"`{experiment.command('create_pruned_net.py', method.name)}"
    if not saved.content:
        raise FileNotFoundError(
            f"there is no sparse network {experiment.pruned_path} to train: make it with {make}`"
        )
    raise ValueError(
        f"{source} holds a dense network, without a mask to train with: "
        f"{make} --init-from {source}` makes one"
    )


def asked_of(saved: Saved) -> dict[str, Any]:
    """What the certificates of a run say was asked for: what the file of its first mask says."""
    proof = saved.content["certificate"]
    return proof["asked"] if proof else {"weights": saved.path.name}
