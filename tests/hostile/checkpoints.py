"""Checkpoints of runs: a dense one, and each kind of mask and of weighing that has a state of its own."""

from __future__ import annotations

import copy
import io
from contextlib import closing, redirect_stderr
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from configs.arguments import parse_assignments
from configs.load import load
from prune_utils.masks import apply
from prune_utils.methods import METHODS
from tests import tiny
from tests.dataloaders import small
from tests.hostile.faults import Case, cases, copied, sample
from tests.hostile.formats import Format, write_torch
from workflow.experiment import Experiment, open_experiment
from workflow.files import Options
from workflow.launch import training_run
from workflow.networks import new_network, save_network
from workflow.pruning import Pruning
from workflow.resuming import restore
from workflow.running import Run

STEP = 4
NAME = "nyuv2_run"
SETTINGS = (
    *tiny.RUN,
    *("prune.num_batches=2", "run.log_every=1", f"run.checkpoint_every={STEP}"),
    *("optim.iterations=8", "finetune.iterations=8"),
)
_folders: list[TemporaryDirectory] = []  # removed when the tests end


@cache
def folder() -> Path:
    """With the small data set in it, and what each run starts from."""
    _folders.append(TemporaryDirectory())
    root = Path(_folders[0].name)
    small.nyuv2(root / "data", 8)
    return root


@cache
def experiment_of(method: str, more: tuple[str, ...]) -> Experiment:
    """With the network that its training starts from, where a method needs one."""
    flags = parse_assignments([*SETTINGS, *more, f"data.root={folder() / 'data'}"])
    dest = folder() / f"{method}{len(list(folder().iterdir()))}"
    experiment = open_experiment(load("nyuv2", flags=flags), method, str(dest), NAME)
    row = METHODS.get(method)
    if row is not None and not row.by_itself:
        network = new_network(experiment)
        pruning = Pruning(experiment, row, network)
        weights = dict(network.named_parameters())
        mask = {name: torch.rand(weights[name].shape) < 0.5 for name in pruning.electorate.owners}
        apply(network, mask)
        proof = pruning.certify(mask)
        save_network(experiment, experiment.pruned_path, network, mask=mask, certificate=proof)
    return experiment


@cache
def first_run(method: str, more: tuple[str, ...]) -> Run:
    return training_run(experiment_of(method, more), METHODS.get(method), Options())[0]


def new_run(method: str, more: tuple[str, ...]) -> Run:
    """A run that has taken no step."""
    run = first_run(method, more)
    network, optimizer, sparsifier = copy.deepcopy((run.network, run.optimizer, run.sparsifier))
    return replace(run, network=network, optimizer=optimizer, sparsifier=sparsifier)


@cache
def checkpoint(method: str, more: tuple[str, ...]) -> dict[str, Any]:
    """What the run wrote after STEP steps, some of which changed the mask."""
    run = new_run(method, more)
    with redirect_stderr(io.StringIO()), closing(run.steps()) as steps:
        for step in steps:
            if step > STEP:
                break
    return torch.load(run.experiment.dest / file_of(), weights_only=True)


def file_of() -> str:
    return f"{NAME}_training.step{STEP:08d}.ckpt"


def clean(method: str, more: tuple[str, ...], left_out: tuple[str, ...]) -> dict[str, Any]:
    """The fields that get faults: those that other kinds of runs have in the same way are left out."""
    return {name: copied(part) for name, part in checkpoint(method, more).items() if name not in left_out}


def write(method: str, more: tuple[str, ...], left_out: tuple[str, ...], path: Path, content: Any) -> None:
    if isinstance(content, dict) and left_out:
        whole = checkpoint(method, more)
        content = {name: whole[name] for name in left_out if name in whole} | content
    write_torch(path, content)


def read(method: str, more: tuple[str, ...], path: Path) -> Any:
    """All that the resumed run consists of. What is said of a checkpoint that is passed over is its error."""
    run = new_run(method, more)
    run.experiment = replace(run.experiment, dest=path.parent)
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            step = restore(run, run.learner())
    except ValueError as error:
        heard = said.getvalue().removesuffix("\n")
        raise ValueError(heard or str(error)) from error
    if said.getvalue():
        raise ValueError(said.getvalue().removesuffix("\n"))
    parts = (run.network, run.optimizer, run.sparsifier, run.weighing)
    return (
        [copied(part.state_dict()) if part is not run.network else _state(run) for part in parts],
        [step, run.best_step, run.best_loss, list(run.before), sorted(run.broken)],
    )


def _state(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.network.state_dict().items()}


def words(case: Case) -> list[str]:
    """A network without tensors lacks the first; best step and score are one thing."""
    names = [key for key in case.path if isinstance(key, str)]
    return names + ["tensor"] * ("network" in names) + ["best"] * ("outcome" in names)


def legal(path: tuple, fault: str) -> bool:
    """Entries that nobody knows; what a run may not have yet; another count of batches."""
    unknown = not path and fault in ("an empty dictionary", "deep dictionaries")
    gathered = path[:2] in (("sparsifier", "average"), ("sparsifier", "progress"))
    early = gathered and fault in ("missing", "an empty dictionary")
    early |= path == ("sparsifier", "twin") and fault == "nothing"
    early |= path in (("threads",), ("instructions",), ("origin",), ("images",)) and fault == "missing"
    counted = str(path[-1:]).endswith("num_batches_tracked',)") and fault == "a scalar"
    stepped = path[:2] == ("optimizer", "state") and path[3:] == ("step",) and fault == "a scalar"
    early |= path[:1] == ("origin",) and fault in ("an empty list", "an empty text")  # told to people
    return unknown or early or counted or stepped  # a parameter without a gradient takes no step


def kind(
    name: str, method: str, *more: str, only: tuple[str, ...] = (), most: int = 10**6, quick: bool = False
) -> Format:
    """only: the fields that get faults, () = all but the settings. most: cases."""
    only = only or ("step", "best", "outcome", "network", "optimizer", "scaler", "sparsifier", *LAST)
    left_out = tuple(field for field in ALL if field not in only)
    content = partial(clean, method, more, left_out)
    return Format(
        f"checkpoint {name}",
        file_of(),
        content,
        partial(write, method, more, left_out),
        partial(read, method, more),
        legal=legal,
        faults=lambda: sample(cases(content(), tensors=True, deep=100), most, seed=0),
        said=f"{NAME}_training",
        words=words,
        slow=True,
        quick_to_make=quick,
    )


LAST = ("weighing", "threads", "instructions", "origin", "method", "images", "broken")
ALL = ("step", "best", "outcome", "settings", "network", "optimizer", "scaler", "sparsifier", *LAST)
MASK = ("sparsifier",)
FORMATS = (
    kind("dense", "baseline"),
    kind("settings", "baseline", only=("settings",), most=300),  # of 1,600, which are read alike
    kind("static", "disparse_static", only=MASK),
    kind("dynamic", "disparse_dynamic", only=MASK),
    kind("dynamic with memory", "disparse_dynamic", "dynamic.memory=0.5", only=MASK, quick=True),
    kind("dynamic by progress", "disparse_dynamic", "dynamic.progress=1", only=MASK, quick=True),
    kind("gradual", "disparse_granet", "gradual.start=1", "gradual.every=1", only=MASK),
    kind("alternating", "ac_dc", "gradual.start=1", "gradual.every=1", "gradual.end=6", only=MASK),
    kind("top_kast", "top_kast", only=MASK),
    kind("famo", "baseline", "weighting.method=famo", only=("weighing",)),
    kind("nash_mtl", "baseline", "weighting.method=nash_mtl", only=("weighing",)),
    kind("dwa", "baseline", "weighting.method=dwa", only=("weighing",)),
)
