"""One experiment: its settings brought to life, and the names of its files.

Here the packages meet: configs says what, dataloaders and tasks give data and losses, models the network,
training saves and loads it. The scripts call this and print. Leaves out pruning and training themselves
(workflow.py).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from configs.load import as_tree
from configs.schema import Config
from dataloaders import DATASETS
from dataloaders.streams import evaluation_batches, training_batches
from models.multitask import MultiTaskNet
from models.published import from_published, is_published
from tasks.base import Target, Task
from training.checkpoint import FORMAT, check_fields, is_own, load_state, read_file, versions, write_file
from training.loop import Objective

from .processes import make_fabric

BASELINE = "baseline"


def experiment_name(dataset: str, method: str, ratio: float) -> str:
    """The stem of every file of an experiment: nyuv2_disparse_static_90, nyuv2_snip_92.5, nyuv2_baseline."""
    return f"{dataset}_{BASELINE}" if method == BASELINE else f"{dataset}_{method}_{ratio:g}"


@dataclass(frozen=True)
class Saved:
    """A network read from a file. Own files carry everything; published ones weights and masks only."""

    path: Path
    network: MultiTaskNet
    mask: dict[str, Tensor] | None
    content: dict


@dataclass(frozen=True)
class Experiment:
    """Settings, the method's name, the folder and stem of its files, and the device it runs on.

    flags: the settings of this command line as text, to be repeated in advice.
    """

    config: Config
    method: str
    dest: Path
    name: str
    fabric: Fabric
    flags: str = ""

    @cached_property
    def dataset(self):
        """The row of the data set."""
        return DATASETS[self.config.data.dataset]

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks of this experiment, in the data set's order."""
        return self.dataset.make_tasks(self.config.data.tasks, self.config.data, self.config.run.protocol)

    @cached_property
    def objective(self) -> Objective:
        missing = [task for task in self.tasks if task not in self.config.loss_weights]
        if missing:
            task = missing[0]
            raise ValueError(f"loss_weights has no weight for task '{task}': --set loss_weights.{task}=1")
        return Objective(self.tasks, {task: self.config.loss_weights[task] for task in self.tasks})

    def say(self, text: str) -> None:
        """A line for the person at the terminal, once for all processes."""
        if self.fabric.is_global_zero:
            print(text, file=sys.stderr)

    # ---------------------------------------------------------------- files
    @property
    def pruned_path(self) -> Path:
        return self.dest / f"{self.name}.pth"

    @property
    def best_path(self) -> Path:
        return self.dest / f"best_{self.name}.pth"

    @property
    def final_path(self) -> Path:
        return self.dest / f"final_{self.name}.pth"

    @property
    def baseline_name(self) -> str:
        return experiment_name(self.config.data.dataset, BASELINE, 0)

    def command(self, script: str, method: str) -> str:
        """The command line that makes a missing file, with the settings that this command was given."""
        ratio = "" if method == BASELINE else f" --ratio {self.config.prune.ratio:g}"
        dataset = self.config.data.dataset
        words = (
            f"python3 {script} --dataset {dataset} --method {method}{ratio} --dest {self.dest} {self.flags}"
        )
        return words.strip()

    def check_dest(self) -> None:
        """OSError unless files can be written to the folder, which is made with its first file."""
        folder = self.dest.absolute()
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(f"--dest {self.dest} cannot be a folder: {folder} is a file")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"--dest {self.dest} cannot be written: no permission for {folder}")

    # ----------------------------------------------------------------- data
    def check_data(self, *splits: str) -> None:
        """ValueError or OSError unless the settings fit the data: tasks, loss weights, index, splits."""
        _ = self.objective
        for split in splits:
            self.records(split)

    def records(self, split: str):
        return self.dataset.open(self.config.data, split, self.tasks, self.config.run.protocol)

    def training_stream(self, start: int, stop: int) -> Iterable:
        """This process's share of the batches of steps start + 1 to stop."""
        return training_batches(
            self.records("train"),
            self.config.data,
            seed=self.config.run.seed,
            start=start,
            stop=stop,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
        )

    def numbered_batches(self, count: int) -> Iterator[tuple[int, tuple]]:
        """This process's whole batches among the first `count` of the stream, on the device, numbered.

        Every process gets equally many; what is beyond `count` has no valid pixel.
        """
        config, world = self.config, self.fabric.world_size
        data = replace(config.data, batch_size=config.prune.batch_size or config.data.batch_size)
        turns = range(-(-count // world) * world)
        stream = training_batches(self.records("train"), data, seed=config.run.seed, start=0, stop=len(turns))
        for number, (image, targets) in zip(turns, stream, strict=True):
            if number % world == self.fabric.global_rank:
                if number >= count:
                    targets = {name: Target(t.value, t.valid & False) for name, t in targets.items()}
                yield number, self.fabric.to_device((image, targets))

    def evaluation_stream(self, split: str) -> Iterable:
        return evaluation_batches(
            self.records(split), self.config.data, rank=self.fabric.global_rank, world=self.fabric.world_size
        )

    # -------------------------------------------------------------- network
    def new_network(self) -> MultiTaskNet:
        """A freshly initialised network, the same for the same seed."""
        channels = {name: task.channels for name, task in self.tasks.items()}
        model = self.config.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.run.seed)
            return MultiTaskNet(channels, model.backbone, model.width, model.branch_after)

    def save_network(self, path: Path, network: MultiTaskNet, **fields) -> Path:
        """Write a network of this experiment; fields: mask, certificate, step (None, None, 0)."""
        mask = fields.get("mask")
        content = {
            "format": FORMAT,
            "name": self.name,
            "method": self.method,
            "network": network.description,
            "state": {name: value.detach().cpu() for name, value in network.state_dict().items()},
            "mask": None if mask is None else {name: kept.cpu() for name, kept in mask.items()},
            "certificate": fields.get("certificate"),
            "config": as_tree(self.config),
            "step": fields.get("step", 0),
            "versions": versions(),
        }
        return write_file(path, content)

    def load_network(self, path: Path, content: dict | None = None) -> Saved:
        """A network that fits this experiment, from an own file, a dense state dict or a published one.

        content: of the file, if it was read before. ValueError names what does not fit.
        """
        content = read_file(path) if content is None else content
        network = self.new_network()
        if is_own(content):
            check_fields(content, path)
            _require_same(network.description, content["network"], path)
            load_state(network, content["state"], path)
            return Saved(path, network, content["mask"], content)
        state = {name.removeprefix("module."): value for name, value in content.items()}
        mask = None
        if is_published(state):
            try:
                state, mask = from_published(state, network.state_dict(), network.tasks)
            except ValueError as error:
                raise ValueError(f"{path} does not fit: {error}") from None
        load_state(network, state, path)
        return Saved(path, network, mask, {"certificate": None, "step": None, "config": None})


def _require_same(ours: dict, theirs: dict, path: Path) -> None:
    for field, value in ours.items():
        if theirs.get(field) != value:
            raise ValueError(
                f"{path} holds a network with {field} {theirs.get(field)}, the settings ask for {value}: "
                "give this command the same --config and flags as the one that made the file"
            )


def open_experiment(config: Config, method: str, dest: str, name: str | None, flags: str = "") -> Experiment:
    """Settings -> Experiment. Starts further processes where several devices are asked for.

    ValueError for a name that is no file name, a device, number or precision that is not there.
    """
    if name is not None and (not name or name != Path(name).name):
        raise ValueError(f"--name '{name}' is not a file name: --dest chooses the folder")
    fabric = make_fabric(config.run)
    name = name or experiment_name(config.data.dataset, method, config.prune.ratio)
    return Experiment(config, method, Path(dest), name, fabric, flags)
