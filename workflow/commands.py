"""What the scripts call: create a sparse network, train one. Each returns what it did and its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from models.multitask import MultiTaskNet
from models.published import to_published
from prune_utils.masks import apply
from prune_utils.methods import Method
from prune_utils.report import certificate, format_certificate
from training.checkpoint import load_state, write_file
from training.resume import checkpoint_paths, remove_checkpoints
from training.sparsifier import Dense

from .experiment import BASELINE, Experiment, Saved
from .pruning import Pruning
from .running import Run, training_plan

Files = list[tuple[Path, str]]


@dataclass(frozen=True)
class Options:
    """What the command line says beside settings."""

    init_from: str | None = None
    overwrite: bool = False
    resume: bool = False
    export_published: str | None = None


def refuse_existing(paths: list[Path], options: Options) -> None:
    """ValueError for the first file that is there already, unless it may be replaced or continued."""
    for path in paths:
        if path.exists() and not (options.overwrite or options.resume):
            raise ValueError(f"{path} exists already: --overwrite replaces it, --name or --dest keeps both")


def _start(experiment: Experiment, method: Method, options: Options) -> Saved | None:
    """The trained network that pruning starts from; None = the experiment's own initialisation."""
    if options.init_from:
        return experiment.load_network(Path(options.init_from))
    if not method.needs_dense:
        return None
    path = experiment.dest / f"best_{experiment.baseline_name}.pth"
    if not path.is_file():
        raise FileNotFoundError(
            f"{method.name} prunes a trained dense network and there is no {path}: make it with "
            f"`{experiment.command('launch_training.py', BASELINE)}` or name one with --init-from"
        )
    return experiment.load_network(path)


def rewind_path(experiment: Experiment, step: int) -> Path:
    """The weights of the dense run at an early step, kept for methods that return to them."""
    return experiment.dest / f"rewind_{experiment.baseline_name}_step{step}.pth"


def create(experiment: Experiment, method: Method, options: Options) -> tuple[str, Files]:
    """Make the sparse network of a method and write it; returns the certificate as text, and the files."""
    fabric = experiment.fabric
    refuse_existing([experiment.pruned_path], options)
    saved = _start(experiment, method, options)
    network = fabric.to_device(saved.network if saved else experiment.new_network())
    pruning = Pruning(experiment, method, network)
    _ = pruning.plan  # complains about settings before any work
    rewound = None
    if method.start == "rewound":
        rewound = _rewound(experiment)
    mask = pruning.make_mask()
    step = 0
    if pruning.plan.retrain:
        mask, step = _rounds(experiment, pruning, mask, options)
    if rewound is not None:
        load_state(network, rewound, "the rewound weights")
    apply(network, mask)
    proof = pruning.certify(mask)
    files = []
    if fabric.is_global_zero:
        experiment.save_network(experiment.pruned_path, network, mask=mask, certificate=proof, step=step)
        files.append((experiment.pruned_path, "the sparse network, ready to train"))
        if options.export_published:
            files.append(_export(Path(options.export_published), network, mask))
    return format_certificate(proof), files


def _rewound(experiment: Experiment) -> dict:
    step = experiment.config.prune.rewind_step
    path = rewind_path(experiment, step)
    if not path.is_file():
        more = f" --rewind-step {step}" if step else ""
        raise FileNotFoundError(
            f"there are no early weights {path}: dense training keeps them, "
            f"`{experiment.command('launch_training.py', BASELINE)}{more}`"
        )
    return experiment.load_network(path).network.state_dict()


def _rounds(experiment: Experiment, pruning: Pruning, first: dict, options: Options) -> tuple[dict, int]:
    """Train between rounds of pruning; the mask at the end and the steps taken."""
    plan = training_plan(experiment, "finetune")
    steps = pruning.plan.rounds * experiment.config.prune.round_iterations
    plan = replace(plan, steps=steps)
    stem = f"{experiment.name}_rounds"
    run = Run(
        experiment, pruning.network, pruning.rounds(first), plan, pruning.certify, stem, keep_best=False
    )
    outcome = run(options.resume)
    run.finish()
    return outcome["mask"], steps


def _export(path: Path, network, mask) -> tuple[Path, str]:
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    write_file(path, to_published(state, {name: kept.cpu() for name, kept in mask.items()}, network.tasks))
    return path, "the same network in the published form"


def _trainee(experiment: Experiment, method: Method | None, options: Options) -> tuple[Saved, str]:
    """The network that training starts from, with its mask, and what it is called in the closing table."""
    if method is None:
        if options.init_from:
            return experiment.load_network(Path(options.init_from)), options.init_from
        return Saved(Path(), experiment.new_network(), None, {}), "a new initialisation"
    if experiment.pruned_path.is_file():
        saved = experiment.load_network(experiment.pruned_path)
        if saved.mask is None:
            raise ValueError(f"{experiment.pruned_path} holds a dense network, without a mask to train with")
        return saved, str(experiment.pruned_path)
    if method.grow is None:
        raise FileNotFoundError(
            f"there is no sparse network {experiment.pruned_path} to train: make it with "
            f"`{experiment.command('create_pruned_net.py', method.name)}`"
        )
    network = experiment.fabric.to_device(experiment.new_network())
    pruning = Pruning(experiment, method, network)
    mask = pruning.make_mask()
    return Saved(Path(), network, mask, {}), f"a new initialisation, {pruning.plan.budget} densities"


def launch(experiment: Experiment, method: Method | None, options: Options) -> tuple[str, Files]:
    """Train the dense network (method None) or a sparse one; returns what was done, and the files."""
    paths = [experiment.best_path, experiment.final_path]
    stem = f"{experiment.name}_training"
    if options.resume and experiment.final_path.is_file() and not checkpoint_paths(experiment.dest, stem):
        return f"{experiment.name} was finished before.", [(path, "unchanged") for path in paths]
    refuse_existing([*paths, *checkpoint_paths(experiment.dest, stem)], options)
    saved, source = _trainee(experiment, method, options)
    network = experiment.fabric.to_device(saved.network)
    plan = training_plan(experiment, method.training if method else "full")
    if options.overwrite and not options.resume:
        remove_checkpoints(experiment.dest, stem)
    if method is None:
        run = Run(experiment, network, lambda optimizer: Dense(), plan, lambda mask: {}, stem)
    else:
        pruning = Pruning(experiment, method, network)
        mask = {name: kept.to(experiment.fabric.device) for name, kept in saved.mask.items()}
        certify = _certifier(pruning, saved)
        run = Run(experiment, network, pruning.sparsifier(mask, plan.steps), plan, certify, stem)
    outcome = run(options.resume, _keeper(experiment, network) if method is None else lambda step: None)
    run.save(experiment.final_path, outcome["mask"], plan.steps)
    run.finish()
    done = f"trained {plan.steps} steps from {source}; best weights at step {outcome['best_step']}"
    return done, [
        (experiment.best_path, f"the best weights on {experiment.config.run.select_on}"),
        (experiment.final_path, "the last weights"),
        (run.metrics_path, "every figure of the run"),
        (run.board_path, "the same for TensorBoard"),
    ]


def _certifier(pruning: Pruning, saved: Saved) -> Callable[[dict], dict]:
    """Certificates of this run: what was asked is what the file of the first mask says."""
    before = saved.content.get("certificate")
    if not before:
        return pruning.certify
    return lambda mask: certificate(mask, pruning.electorate.owners, before["asked"])


def _keeper(experiment: Experiment, network: MultiTaskNet) -> Callable[[int], None]:
    """Keeps the dense network's early weights, for methods that return to them."""
    wanted = experiment.config.prune.rewind_step

    def keep(step: int) -> None:
        if step == wanted and experiment.fabric.is_global_zero:
            experiment.save_network(rewind_path(experiment, step), network, step=step)

    return keep
