"""One experiment: its settings brought to life, and the names of its files.

Here the packages meet: configs says what, dataloaders and tasks give data and losses.
Leaves out networks, pruning and training themselves (networks.py, pruning.py, running.py).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from common import commands
from common.files import check_folder
from common.lock import locked
from common.names import BASELINE, ratio_text
from configs.schema import Config
from dataloaders import DATASETS, DataSet
from dataloaders.base import Records
from dataloaders.findings import quick_check
from dataloaders.streams import Stream, evaluation_batches, training_batches
from tasks.base import Target, Task
from training.learner import Objective

from .origin import usual
from .processes import check_graphs, make_fabric


def experiment_name(dataset: str, method: str, ratio: float) -> str:
    """The stem of every file of an experiment: nyuv2_disparse_static_90, nyuv2_snip_92.5, nyuv2_baseline."""
    return f"{dataset}_{BASELINE}" if method == BASELINE else f"{dataset}_{method}_{ratio_text(ratio)}"


@dataclass(frozen=True)
class Experiment:
    """Settings, the method's name, the folder and stem of its files, and the device it runs on.

    flags: the settings of this command line as text, to be repeated in advice. samples: read only the first
    so many of every split.
    """

    config: Config
    method: str
    dest: Path
    name: str
    fabric: Fabric
    flags: str = ""
    samples: int | None = None

    @cached_property
    def dataset(self) -> DataSet:
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
        if not any(self.config.loss_weights[task] for task in self.tasks):
            zeros = ", ".join(f"loss_weights.{task}" for task in self.tasks)
            raise ValueError(
                f"{zeros} {'is' if len(self.tasks) == 1 else 'are all'} 0: nothing would be learnt"
            )
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
        ratio = "" if method == BASELINE else f" --ratio {ratio_text(self.config.prune.ratio)}"
        dataset = self.config.data.dataset
        usual = experiment_name(dataset, method, self.config.prune.ratio)
        name = "" if method == BASELINE or self.name == usual else f" --name {self.name}"
        words = (
            f"{commands.script(script)} --dataset {dataset} --method {method}{ratio}{name} --dest {self.dest}"
        )
        return f"{words} {self.flags}".strip()

    def check_dest(self) -> None:
        """OSError unless files can be written to the folder, which is made with its first file."""
        check_folder(self.dest, "--dest")

    def held(self) -> AbstractContextManager[None]:
        """Inside, no other process works under this name in this folder; ValueError says who does."""
        self.check_dest()
        return locked(self.dest, self.name) if self.fabric.is_global_zero else nullcontext()

    # ----------------------------------------------------------------- data
    def check_data(self, *splits: str) -> None:
        """ValueError or OSError unless settings and data fit: tasks, loss weights, index, splits, files."""
        _ = self.objective
        records = [self.records(split) for split in dict.fromkeys(splits)]
        quick_check(*records, allowed=self.config.data.skip_unreadable)

    def records(self, split: str) -> Records:
        records = self.dataset.open(self.config.data, split, self.tasks, self.config.run.protocol)
        return replace(records, entries=records.entries[: self.samples])

    @property
    def pinned(self) -> bool:
        """Whether batches go to another device than the CPU."""
        return self.fabric.device.type != "cpu"

    def images(self, *splits: str) -> dict[str, dict[str, Any]]:
        """By split how many images it has ("count") and the SHA-256 of their names in order ("sha256")."""
        found = {}
        for split in splits:
            records = self.records(split)
            names = [str(entry.files[records.layout.image.column]) for entry in records.entries]
            digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
            found[split] = {"count": len(names), "sha256": digest}
        return found

    def training_stream(self, start: int, stop: int) -> Stream:
        """This process's share of the batches of steps start + 1 to stop."""
        return training_batches(
            self.records("train"),
            self.config.data,
            seed=self.config.run.seed,
            start=start,
            stop=stop,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pinned=self.pinned,
        )

    def numbered_batches(self, count: int) -> Iterator[tuple[int, tuple]]:
        """This process's whole batches among the first `count` of the stream, on the device, numbered.

        Every process gets equally many; what is beyond `count` has no valid pixel. Where only the first
        samples are read, a task that a batch has no target for gets one of ones: others may hold it.
        """
        config, world = self.config, self.fabric.world_size
        data = replace(config.data, batch_size=config.prune.batch_size or config.data.batch_size)
        turns = range(-(-count // world) * world)
        stream = training_batches(
            self.records("train"), data, seed=config.run.seed, start=0, stop=len(turns), pinned=self.pinned
        )
        for number, (image, targets) in zip(turns, stream, strict=True):
            if number % world == self.fabric.global_rank:
                if self.samples is not None:
                    targets = {name: _known(target) for name, target in targets.items()}
                if number >= count:
                    targets = {name: Target(t.value, t.valid & False) for name, t in targets.items()}
                yield number, self.fabric.to_device((image, targets))

    def evaluation_size(self) -> tuple[int, int]:
        """(rows, columns) of the first image that weights are chosen on, as the network sees it.

        ValueError or OSError where there is none.
        """
        records = self.records(self.config.run.select_on)
        if not len(records):
            raise ValueError(f"split {self.config.run.select_on!r} has no image to count multiply-adds for")
        return records.extent(records[0])

    def evaluation_stream(self, split: str) -> Iterable:
        """This process's share of the batches of a split."""
        return evaluation_batches(
            self.records(split),
            self.config.data,
            rank=self.fabric.global_rank,
            world=self.fabric.world_size,
            pinned=self.pinned,
        )

    def whole_stream(self, split: str) -> Iterable:
        """All batches of a split, whatever the number of processes."""
        return evaluation_batches(self.records(split), self.config.data, pinned=self.pinned)


def _known(target: Target) -> Target:
    """The target, all ones where it has no valid pixel."""
    value, valid = target
    return target if valid.any() else Target(torch.ones_like(value), torch.ones_like(valid))


def open_experiment(config: Config, method: str, dest: str, name: str | None, flags: str = "") -> Experiment:
    """Settings -> Experiment. Starts further processes where several devices are asked for.

    ValueError for a name that is no file name, a device, number or precision that is not there.
    """
    if name is not None and (name.strip() in ("", "..") or name != Path(name).name or not name.isprintable()):
        raise ValueError(f"--name '{name}' is not a file name: --dest chooses the folder")
    fabric = make_fabric(config.run)
    check_graphs(fabric, config)
    usual(config.data.dataset)
    name = name or experiment_name(config.data.dataset, method, config.prune.ratio)
    return Experiment(config, method, Path(dest), name, fabric, flags)
