"""Create a sparse network: score, choose, train between the rounds where the method says so, write."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Config
from dataloaders import DATASETS
from prune_utils.courses import check_growth
from prune_utils.masks import Mask, apply, dense_mask
from prune_utils.methods import Method, retraining
from prune_utils.plan import make_plan
from prune_utils.report import format_certificate
from training.checkpoint import load_state
from training.loop import make_optimizer

from .experiment import Experiment
from .files import REPLACED, Files, Options, finished_before, refuse_other_run, remove_replaced
from .networks import (
    Saved,
    check_export,
    dense_path,
    exported,
    load_network,
    moved,
    new_network,
    refuse_export,
    rewound,
    save_network,
)
from .pruning import Pruning
from .running import Run, rounds_plan
from .weighting import check_weighting


def row_asked(config: Config, method: Method) -> Method:
    """The method, training between its rounds where the settings say so. ValueError where it cannot."""
    return retraining(method, config.prune.rounds) if config.prune.retrain else method


def check_choices(config: Config, method: Method | None) -> None:
    """ValueError for what settings and a method's row alone tell, None = the dense network: names that there
    are not, and what does not go together."""
    DATASETS[config.data.dataset].make_tasks(config.data.tasks, config.data, config.run.protocol)
    check_weighting(config)
    if method is not None:
        row = row_asked(config, method)
        check_growth(row, config.dynamic)
        make_plan(row, config.prune)


def rounds_stem(experiment: Experiment) -> str:
    """Of the checkpoints and figures of the training between rounds of pruning."""
    return f"{experiment.name}_rounds"


def refuse_create(experiment: Experiment, options: Options) -> None:
    """ValueError if `create` would touch another run's files, or tasks cannot be weighed as asked."""
    check_weighting(experiment.config)
    stem, path = rounds_stem(experiment), experiment.pruned_path
    refuse_other_run(experiment, [path], stem, options)
    trained = [experiment.best_path, experiment.final_path]
    refuse_export(experiment, options, [path, *trained, experiment.dest / f"{stem}.csv"], path)


def create(experiment: Experiment, method: Method, options: Options) -> tuple[str, Files]:
    """Make the sparse network of a method and write it; returns the certificate as text, and the files."""
    refuse_create(experiment, options)
    path = experiment.pruned_path
    if finished_before(experiment, path, rounds_stem(experiment), options):
        saved = load_network(experiment, path)
        if saved.mask is None:
            raise ValueError(f"{path} holds a dense network, no sparse one that was made before: {REPLACED}")
        files: Files = [(path, "made before, unchanged"), *exported(experiment, options, path)]
        return format_certificate(saved.content["certificate"]), files
    pruning = prepare_pruning(experiment, method, options)
    network = pruning.network
    # before the work, so that a missing file is told at once
    start = start_path(experiment, method, options)
    early = rewound(experiment, start) if start and method.start == "rewound" else None
    mask, run = pruning.make_mask(), None
    if pruning.plan.retrain:
        if pruning.plan.removes:
            pruning.removal(mask)  # complains now, and not after the training
        run = rounds_run(pruning, mask)
        remove_replaced(experiment, [path], options)
        run.train(options.resume)
        mask = run.mask or mask
    if early is not None:
        load_state(network, early, "the rewound weights")
    if pruning.plan.removes:
        pruning, mask = pruning.smaller(mask), dense_mask(network)
    apply(network, mask)
    proof = pruning.certify(mask)
    files = []
    if experiment.fabric.is_global_zero:
        steps = run.plan.steps if run else 0
        before = run.before if run else pruning.before
        save_network(experiment, path, network, mask=mask, certificate=proof, step=steps, before=before)
        files.append((path, "the sparse network, ready to train"))
        files += exported(experiment, options, path)
    if run:
        run.finish()
    return format_certificate(proof), files


def prepare_pruning(experiment: Experiment, method: Method, options: Options) -> Pruning:
    """The method on the network that it scores; complains about settings, files and data before any work."""
    if method.starts == "dense":
        raise ValueError(
            f"method {method.name} prunes while it trains and there is nothing to create: "
            f"`{experiment.command('launch_training.py', method.name)}`"
        )
    experiment.check_dest()
    saved = start_of_pruning(experiment, method, options)
    network, given = moved(experiment, saved.network), bool(options.init_from)
    pruning = Pruning(experiment, method, network, before=saved.origin, given=given)
    pruning.check()
    check_export(options.export_published, saved.network)
    return pruning


def start_of_pruning(experiment: Experiment, method: Method, options: Options) -> Saved:
    """The network that is scored: of --init-from, the trained dense one, or the own initialisation."""
    path = start_path(experiment, method, options)
    if path is None:
        return Saved(Path(), new_network(experiment), None, {})
    return load_network(experiment, path)


def start_path(experiment: Experiment, method: Method, options: Options) -> Path | None:
    """The file of the network that is scored, None for the own initialisation."""
    if options.init_from:
        return Path(options.init_from)
    return dense_path(experiment, method) if method.needs_dense else None


def rounds_run(pruning: Pruning, first: Mask) -> Run:
    """The training between rounds of pruning, from the first round's mask on."""
    experiment, network = pruning.experiment, pruning.network
    plan = rounds_plan(experiment, pruning.method)
    optimizer = make_optimizer(network, plan)
    stem, rounds = rounds_stem(experiment), pruning.rounds(first)
    return Run(
        *(experiment, network, optimizer, rounds, plan, stem, pruning),
        keep_best=False,
        averaged=False,  # the next round scores the weights as they are
        before=pruning.before,
    )
