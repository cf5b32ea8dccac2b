"""The networks of an experiment: made anew, written to files, read from files of every known form.

Here also: which file holds the weights that another command must have made first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from common.names import BASELINE
from common.tensors import flaw
from configs.load import as_tree
from configs.schema import Config
from dataloaders import DATASETS
from models.imagenet import IMAGENET, backbone_state, download
from models.multitask import MultiTaskNet
from models.published import from_published, is_published, to_published
from prune_utils.masks import Mask, prunable
from prune_utils.methods import Method
from prune_utils.report import certificate
from prune_utils.verifying import check_granularity
from training.checkpoint import (
    FORMAT,
    check_fields,
    check_tensors,
    is_own,
    load_state,
    read_file,
    versions,
    write_file,
)

from .experiment import Experiment
from .files import Files, Options, refuse_existing
from .origin import origin
from .widths import cut_network

CLAIMS = ("kept", "total", "density", "ratio", "layers", "hash")  # what every certificate says


@dataclass(frozen=True)
class Saved:
    """A network read from a file. Own files carry everything; published ones weights and masks only.

    content: the file's other fields; empty where the network was made and not read.
    """

    path: Path
    network: MultiTaskNet
    mask: Mask | None
    content: dict[str, Any]

    @property
    def origin(self) -> list[str]:
        """What the file says of its origin; [] for nothing."""
        return self.content.get("origin", [])


def new_network(experiment: Experiment) -> MultiTaskNet:
    """A freshly initialised network, the same for the same seed, with the backbone that the settings name.

    ValueError or OSError where the backbone's weights do not fit or cannot be had.
    """
    network, model = _empty_network(experiment), experiment.config.model
    source = model.backbone_weights
    if source:
        if source == IMAGENET:
            with experiment.fabric.rank_zero_first(local=True):
                state = download(model.backbone)
        else:
            state = check_tensors(read_file(Path(source)), source)
        try:
            network.load_state_dict(backbone_state(state, network.state_dict()), strict=False)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    return network


def _empty_network(experiment: Experiment) -> MultiTaskNet:
    channels = {name: task.channels for name, task in experiment.tasks.items()}
    model, run = experiment.config.model, experiment.config.run
    last = run.channels_last if run.channels_last is not None else experiment.fabric.device.type == "cpu"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return MultiTaskNet(channels, model.backbone, model.width, model.branch_after, last)


def matched_width(config: Config) -> float:
    """The width at which networks for one task each have together as many parameters as the one for all.

    As near as channels, which are whole, allow; three digits behind the point.
    """
    tasks = DATASETS[config.data.dataset].make_tasks(config.data.tasks, config.data, config.run.protocol)
    channels = {name: task.channels for name, task in tasks.items()}
    model = config.model

    def parameters(heads: dict[str, int], width: float) -> int:
        with torch.device("meta"):
            network = MultiTaskNet(heads, model.backbone, width, model.branch_after)
        return sum(parameter.numel() for parameter in network.parameters())

    wanted, best = parameters(channels, model.width), (math.inf, model.width)
    low, high = 0, math.ceil(1000 * model.width) + 1
    while high - low > 1:
        middle = (low + high) // 2
        missing = wanted - sum(parameters({name: count}, middle / 1000) for name, count in channels.items())
        best = min(best, (abs(missing), middle / 1000))
        low, high = (middle, high) if missing > 0 else (low, middle)
    return best[1]


def moved(experiment: Experiment, network: MultiTaskNet) -> MultiTaskNet:
    """The network, on the device that the experiment runs on."""
    return cast(MultiTaskNet, experiment.fabric.to_device(network))


def save_network(
    experiment: Experiment,
    path: Path,
    network: MultiTaskNet,
    *,
    mask: Mask | None = None,
    certificate: dict[str, Any] | None = None,
    step: int = 0,
    conflicts: dict[str, Any] | None = None,
    before: Iterable[str] = (),
) -> Path:
    """Write a network of this experiment, whole or not at all; mask and certificate None = dense.

    conflicts: what training saw of the tasks' gradients (training.weighing), None = it did not look. before:
    the origin in the file that its weights started from.
    """
    content = {
        "format": FORMAT,
        "name": experiment.name,
        "method": experiment.method,
        "network": network.description,
        "state": {name: value.detach().cpu() for name, value in network.state_dict().items()},
        "mask": None if mask is None else {name: kept.cpu() for name, kept in mask.items()},
        "certificate": certificate,
        "config": as_tree(experiment.config),
        "step": step,
        "versions": versions() | {"device": experiment.fabric.device.type},
        "origin": origin(before, experiment.config),
    }
    if conflicts is not None:
        content["conflicts"] = conflicts
    return write_file(path, content)


def load_network(experiment: Experiment, path: Path, content: dict[str, Any] | None = None) -> Saved:
    """A network that fits this experiment, from an own file, a dense state dict or a published one.

    content: of the file, if it was read before. ValueError names what does not fit.
    """
    content = read_file(path) if content is None else content
    network = _empty_network(experiment)
    if is_own(content):
        check_fields(content, path)
        _require_same(network.description, content["network"], path)
        whole = sum(parameter.numel() for parameter in network.parameters())
        if "shapes" in content["network"]:
            cut_network(network, content["network"]["shapes"], path)
        load_state(network, content["state"], path)
        if content["mask"] is not None:
            _require_true(content["certificate"], content["mask"], network, path)
            removed = content["certificate"].get("removed")
            if removed and removed["before"]["params"] != whole:
                raise ValueError(f"{path}: the certificate's 'removed' is not that of its network")
        return Saved(path, network, content["mask"], content)
    state = check_tensors(content, path)
    mask = None
    if is_published(state):
        try:
            state, mask = from_published(state, network.state_dict(), network.tasks)
        except ValueError as error:
            raise ValueError(f"{path} does not fit: {error}") from None
    load_state(network, state, path)
    return Saved(path, network, mask, {"certificate": None, "step": None, "config": None})


def _require_true(proof: dict[str, Any], mask: Mask, network: MultiTaskNet, path: Path) -> None:
    """ValueError for the first figure of a certificate that is not what the mask gives."""
    owners = network.owners()
    try:
        check_granularity(proof, mask)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        found = certificate(mask, {name: owners[name] for name in prunable(network)}, proof["asked"], network)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path} has a certificate that is none") from error
    for field, value in found.items():
        # warnings are words for people; what a certificate of an earlier version lacks it does not claim
        if field != "warnings" and proof.get(field, None if field in CLAIMS else value) != value:
            raise ValueError(f"{path}: the certificate's '{field}' is not that of its mask")


def _require_same(ours: dict[str, Any], theirs: dict[str, Any], path: Path) -> None:
    for field, value in ours.items():
        if theirs.get(field) != value:
            raise ValueError(
                f"{path} holds a network with {field} {theirs.get(field)}, the settings ask for {value}: "
                "give this command the same --config and flags as the one that made the file"
            )


# ---------------------------------------------------- weights that another command makes
PROTOCOL_STARTS = {"paper": "final", "metric": "best"}  # the published code prunes the last weights


def start_from(config: Config) -> str:
    """Which weights of the dense run a method prunes, "best" or "final": the setting, else the protocol."""
    return config.prune.start_from or PROTOCOL_STARTS[config.run.protocol]


def dense_path(experiment: Experiment, method: Method) -> Path:
    """The trained dense network of this folder. FileNotFoundError names the command that makes it."""
    path = experiment.dest / f"{start_from(experiment.config)}_{experiment.baseline_name}.pth"
    if not path.is_file():
        raise FileNotFoundError(
            f"{method.name} prunes a trained dense network and there is no {path}: make it with "
            f"`{experiment.command('launch_training.py', BASELINE)}` or name one with --init-from"
        )
    return path


def rewind_path(experiment: Experiment, run: str | None = None) -> Path:
    """A dense run's weights at the early step that the settings name, for methods that return to it.

    run: its name, None = the one that a dense run has where none is given.
    """
    step = experiment.config.prune.rewind_step
    return experiment.dest / f"rewind_{run or experiment.baseline_name}_step{step}.pth"


def rewound(experiment: Experiment, dense: Path) -> dict[str, Tensor]:
    """The early weights of the run that a dense network is from, beside its file; a state dict.

    FileNotFoundError names the command that keeps them, ValueError another run whose weights they are.
    """
    content, step = read_file(dense), experiment.config.prune.rewind_step
    run = content["name"] if is_own(content) else experiment.baseline_name
    beside = replace(experiment, dest=dense.parent)
    path = rewind_path(beside, run)
    if not path.is_file():
        more = f" --name {run}" if run != experiment.baseline_name else ""
        more += f" --rewind-step {step}" if step else ""
        raise FileNotFoundError(
            f"there are no early weights {path}: dense training keeps them, "
            f"`{beside.command('launch_training.py', BASELINE)}{more}`"
        )
    saved = load_network(experiment, path)
    of = saved.content.get("name", run)
    if of != run:
        raise ValueError(f"{path} holds early weights of the run {of}, and {dense} is of the run {run}")
    return saved.network.state_dict()


# ------------------------------------------------------------------- the published form
def export_published(
    path: Path, network: MultiTaskNet, mask: Mask | None, prefix: str = ""
) -> tuple[Path, str]:
    """Write the published form, `prefix` before every name; the file, and what the closing table calls it."""
    write_file(path, published(network, mask, prefix))
    return path, "the same network in the published form"


def exported(experiment: Experiment, options: Options, source: Path, prefix: str = "") -> Files:
    """Write a saved network in the published form where that is asked for; else nothing."""
    if not options.export_published or not experiment.fabric.is_global_zero:
        return []
    saved = load_network(experiment, source)
    return [export_published(Path(options.export_published), saved.network, saved.mask, prefix)]


def published(network: MultiTaskNet, mask: Mask | None, prefix: str = "") -> dict[str, Tensor]:
    """The published form: a state dict in the names of the published code, `prefix` before every one."""
    state = {name: value.cpu() for name, value in network.state_dict().items()}
    kept = None if mask is None else {name: kept.cpu() for name, kept in mask.items()}
    named = to_published(state, kept, network.tasks)
    return {prefix + name: value for name, value in named.items()}


def refuse_export(
    experiment: Experiment, options: Options, outputs: Iterable[Path], source: Path, prefix: str = ""
) -> None:
    """ValueError where --export-published would replace a file unasked, or one of the command itself.

    outputs: those of the command, there or not. source: the network that is exported; with --resume the file
    may be there already where it holds that network.
    """
    if not options.export_published:
        return
    path = Path(options.export_published)
    if path.resolve() in {output.resolve() for output in outputs}:
        raise ValueError(
            f"--export-published {path} is a file of {experiment.name} itself, which would be lost: name "
            "another"
        )
    if not (options.resume and source.is_file() and path.is_file()):
        refuse_existing([path], options, "--overwrite replaces it, another --export-published keeps it")
        return
    saved = load_network(experiment, source)
    if not same_tensors(read_file(path), published(saved.network, saved.mask, prefix)):
        raise ValueError(
            f"--export-published {path} exists already and does not hold {source}: name another file"
        )


def same_tensors(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a file's state dict is `other`."""
    return one.keys() == other.keys() and all(
        not flaw(one[name], value) and one[name].dtype == value.dtype and torch.equal(one[name], value)
        for name, value in other.items()
    )


def check_export(path: str | None, network: MultiTaskNet) -> None:
    """ValueError before any work if the network has no published form."""
    if path:
        to_published(network.state_dict(), None, network.tasks)
