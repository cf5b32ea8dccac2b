"""Where a command's weights come from: a new initialisation, a file, an earlier step of the dense run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from models.multitask import MultiTaskNet
from models.published import to_published
from prune_utils.methods import Method
from prune_utils.report import certificate
from training.checkpoint import write_file

from .experiment import BASELINE, Experiment
from .networks import Saved
from .pruning import Pruning

Files = list[tuple[Path, str]]  # written by a command, and what each holds


@dataclass(frozen=True)
class Options:
    """What the command line says beside settings."""

    init_from: str | None = None
    overwrite: bool = False
    resume: bool = False
    export_published: str | None = None


def refuse_existing(paths: Iterable[Path], options: Options) -> None:
    """ValueError for the first file that is there already, unless it may be replaced."""
    for path in paths:
        if path.exists() and not options.overwrite:
            raise ValueError(
                f"{path} exists already: --overwrite replaces it, --resume goes on with a run, "
                "--name or --dest keeps both"
            )


def start_of_pruning(experiment: Experiment, method: Method, options: Options) -> Saved:
    """The network that is scored: of --init-from, the trained dense one, or the own initialisation."""
    if options.init_from:
        return experiment.load_network(Path(options.init_from))
    if not method.needs_dense:
        return Saved(Path(), experiment.new_network(), None, {})
    return experiment.load_network(dense_path(experiment, method))


def dense_path(experiment: Experiment, method: Method) -> Path:
    """The trained dense network of this folder. FileNotFoundError names the command that makes it."""
    path = experiment.dest / f"best_{experiment.baseline_name}.pth"
    if not path.is_file():
        raise FileNotFoundError(
            f"{method.name} prunes a trained dense network and there is no {path}: make it with "
            f"`{experiment.command('launch_training.py', BASELINE)}` or name one with --init-from"
        )
    return path


def rewind_path(experiment: Experiment, step: int) -> Path:
    """The weights of the dense run at an early step, kept for methods that return to them."""
    return experiment.dest / f"rewind_{experiment.baseline_name}_step{step}.pth"


def rewound(experiment: Experiment) -> dict:
    """The dense run's weights at the step that the settings name, a state dict."""
    step = experiment.config.prune.rewind_step
    path = rewind_path(experiment, step)
    if not path.is_file():
        more = f" --rewind-step {step}" if step else ""
        raise FileNotFoundError(
            f"there are no early weights {path}: dense training keeps them, "
            f"`{experiment.command('launch_training.py', BASELINE)}{more}`"
        )
    return experiment.load_network(path).network.state_dict()


def keeper(experiment: Experiment, network: MultiTaskNet) -> Callable[[int], None]:
    """Keeps the dense network's early weights, for methods that return to them."""
    wanted = experiment.config.prune.rewind_step

    def keep(step: int) -> None:
        if step == wanted and experiment.fabric.is_global_zero:
            experiment.save_network(rewind_path(experiment, step), network, step=step)

    return keep


def trainee(experiment: Experiment, method: Method | None, options: Options) -> tuple[Saved, str]:
    """The network that training starts from, with its mask, and what it is called in the closing table."""
    if options.init_from:
        saved, source = experiment.load_network(Path(options.init_from)), options.init_from
    elif method is not None and experiment.pruned_path.is_file():
        saved, source = experiment.load_network(experiment.pruned_path), str(experiment.pruned_path)
    else:
        saved, source = Saved(Path(), experiment.new_network(), None, {}), "a new initialisation"
    if method is None or saved.mask is not None:
        return saved, source
    if method.grow is None and source == "a new initialisation":
        raise FileNotFoundError(
            f"there is no sparse network {experiment.pruned_path} to train: make it with "
            f"`{experiment.command('create_pruned_net.py', method.name)}`"
        )
    if method.grow is None:
        raise ValueError(
            f"{source} holds a dense network, without a mask to train with: "
            f"`{experiment.command('create_pruned_net.py', method.name)} --init-from {source}` makes one"
        )
    pruning = Pruning(experiment, method, experiment.fabric.to_device(saved.network))
    mask = pruning.make_mask()
    return Saved(Path(), saved.network, mask, {}), f"{source}, {pruning.plan.budget} densities"


def certifier(pruning: Pruning, saved: Saved) -> Callable[[dict], dict]:
    """Certificates of a run: what was asked is what the file of the first mask says."""
    if not saved.content:
        return pruning.certify
    before = saved.content.get("certificate")
    asked = before["asked"] if before else {"weights": saved.path.name}
    return lambda mask: certificate(mask, pruning.electorate.owners, asked)


def export(path: Path, network: MultiTaskNet, mask: dict | None) -> tuple[Path, str]:
    """Write the published form; the file, and what it is for the closing table."""
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    kept = None if mask is None else {name: kept.cpu() for name, kept in mask.items()}
    write_file(path, to_published(state, kept, network.tasks))
    return path, "the same network in the published form"


def check_export(path: str | None, network: MultiTaskNet) -> None:
    """ValueError before any work if the network has no published form."""
    if path:
        to_published(network.state_dict(), None, network.tasks)
