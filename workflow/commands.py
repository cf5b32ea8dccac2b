"""What the scripts call: create a sparse network, train one. Each returns what it did and its files."""

from __future__ import annotations

from pathlib import Path

from configs.load import as_tree
from prune_utils.masks import apply
from prune_utils.methods import Method
from prune_utils.report import format_certificate
from training.checkpoint import load_state
from training.resume import checkpoint_paths
from training.sparsifier import Dense

from .estimate import check_disk
from .experiment import Experiment
from .plans import full_plan, rounds_plan
from .preflight import rehearse_create, rehearse_launch
from .pruning import Pruning
from .rehearsal import SHORT
from .running import Run, fixed_settings, require_same_settings
from .weights import (
    Files,
    Options,
    certifier,
    check_export,
    export,
    keeper,
    refuse_existing,
    rewound,
    start_of_pruning,
    trainee,
)


def refuse_other_run(experiment: Experiment, paths: list[Path], stem: str, options: Options) -> None:
    """ValueError for the first file of another run, unless it may be replaced.

    With --resume the files of the same run may be there: those of the same settings.
    """
    checkpoints = checkpoint_paths(experiment.dest, stem)
    if options.resume:
        for path in paths if not (checkpoints or options.overwrite) else ():
            if path.suffix == ".pth" and path.is_file():
                require_own(experiment, path)
        return
    refuse_existing([*paths, *checkpoints], options)


def refuse_create(experiment: Experiment, options: Options) -> None:
    """ValueError if `create` would touch another run's files."""
    refuse_other_run(experiment, [experiment.pruned_path], rounds_stem(experiment), options)


def refuse_launch(experiment: Experiment, options: Options) -> None:
    """ValueError if `launch` would touch another run's files."""
    stem = training_stem(experiment)
    paths = [experiment.best_path, experiment.final_path, experiment.dest / f"{stem}.csv"]
    refuse_other_run(experiment, paths, stem, options)


def require_own(experiment: Experiment, path: Path) -> None:
    """ValueError unless the file was made with the settings of this experiment."""
    config = experiment.load_network(path).content["config"]
    if config is None:
        raise ValueError(f"{path} was not made by this program: --overwrite replaces it")
    require_same_settings(config, fixed_settings(as_tree(experiment.config)), str(path))


# ---------------------------------------------------------------------- create
def create(experiment: Experiment, method: Method, options: Options) -> tuple[str, Files]:
    """Make the sparse network of a method and write it; returns the certificate as text, and the files."""
    path, stem = experiment.pruned_path, rounds_stem(experiment)
    refuse_create(experiment, options)
    if options.resume and path.is_file() and not checkpoint_paths(experiment.dest, stem):
        proof = experiment.load_network(path).content["certificate"]
        return format_certificate(proof), [(path, "made before, unchanged")]
    going_on = options.resume and checkpoint_paths(experiment.dest, stem)
    if method.retrain and experiment.config.run.preflight and not going_on:
        rehearsal = rehearse_create(experiment, method, options, SHORT)
        check_disk(experiment, rehearsal, rounds_plan(experiment, method))
    pruning = prepare_pruning(experiment, method, options)
    network = pruning.network
    # before the work, so that a missing file is told at once
    early = rewound(experiment) if method.start == "rewound" else None
    mask, step = pruning.make_mask(), 0
    run = None
    if pruning.plan.retrain:
        run = rounds_run(pruning, mask)
        mask, step = run(options.resume)["mask"], run.plan.steps
    if early is not None:
        load_state(network, early, "the rewound weights")
    apply(network, mask)
    proof = pruning.certify(mask)
    files = []
    if experiment.fabric.is_global_zero:
        experiment.save_network(path, network, mask=mask, certificate=proof, step=step)
        files.append((path, "the sparse network, ready to train"))
        if options.export_published:
            files.append(export(Path(options.export_published), network, mask))
    if run is not None:
        run.finish()
    return format_certificate(proof), files


def prepare_pruning(experiment: Experiment, method: Method, options: Options) -> Pruning:
    """The method on the network that it scores; complains about settings, files and data before any work."""
    experiment.check_dest()
    network = start_of_pruning(experiment, method, options).network
    pruning = Pruning(experiment, method, experiment.fabric.to_device(network))
    pruning.check()
    check_export(options.export_published, network)
    return pruning


def rounds_stem(experiment: Experiment) -> str:
    """Of the checkpoints and figures of the training between rounds of pruning."""
    return f"{experiment.name}_rounds"


def rounds_run(pruning: Pruning, first: dict) -> Run:
    """The training between rounds of pruning, from the first round's mask on."""
    experiment = pruning.experiment
    plan = rounds_plan(experiment, pruning.method)
    make = pruning.rounds(first)
    stem = rounds_stem(experiment)
    return Run(experiment, pruning.network, make, plan, pruning.certify, stem, keep_best=False)


# ---------------------------------------------------------------------- launch
def training_stem(experiment: Experiment) -> str:
    """Of the checkpoints and figures of a training run."""
    return f"{experiment.name}_training"


def launch(experiment: Experiment, method: Method | None, options: Options) -> tuple[str, Files]:
    """Train the dense network (method None) or a sparse one; returns what was done, and the files."""
    stem = training_stem(experiment)
    paths = [experiment.best_path, experiment.final_path]
    refuse_launch(experiment, options)
    if options.resume and experiment.final_path.is_file() and not checkpoint_paths(experiment.dest, stem):
        return f"{experiment.name} was finished before.", [(path, "unchanged") for path in paths]
    going_on = options.resume and checkpoint_paths(experiment.dest, stem)
    if experiment.config.run.preflight and not going_on:
        rehearsal = rehearse_launch(experiment, method, options, SHORT)
        check_disk(experiment, rehearsal, full_plan(experiment, method))
    run, source = training_run(experiment, method, options)
    keep = keeper(experiment, run.network) if method is None else lambda step: None
    outcome = run(options.resume, keep)
    run.save(experiment.final_path, outcome["mask"], run.plan.steps)
    run.finish()
    done = f"trained {run.plan.steps} steps from {source}; best weights at step {outcome['best_step']}"
    files = [
        (experiment.best_path, f"the best weights on {experiment.config.run.select_on}"),
        (experiment.final_path, "the last weights"),
        (run.metrics_path, "every figure of the run"),
        (run.board_path, "the same for TensorBoard"),
    ]
    if options.export_published and experiment.fabric.is_global_zero:
        best = experiment.load_network(experiment.best_path)
        files.append(export(Path(options.export_published), best.network, best.mask))
    return done, files


def training_run(experiment: Experiment, method: Method | None, options: Options) -> tuple[Run, str]:
    """The run that `launch` performs, and what its weights are; complains before any training."""
    experiment.check_dest()
    experiment.check_data("train", experiment.config.run.select_on)
    saved, source = trainee(experiment, method, options)
    network = experiment.fabric.to_device(saved.network)
    check_export(options.export_published, network)
    plan = full_plan(experiment, method)
    stem = training_stem(experiment)
    if method is None:
        return Run(experiment, network, lambda optimizer: Dense(), plan, lambda mask: {}, stem), source
    pruning = Pruning(experiment, method, network)
    pruning.check_certificate(saved.content.get("certificate"), source)
    mask = {name: kept.to(experiment.fabric.device) for name, kept in saved.mask.items()}
    make = pruning.sparsifier(mask, plan.steps)
    return Run(experiment, network, make, plan, certifier(pruning, saved), stem), source
