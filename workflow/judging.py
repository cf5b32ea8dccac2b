"""What a network loses against the dense one on some images, and the bound of it.

A task's drop is the mean over its measures of their relative change against the dense network, signed so
that up is better and turned around: percent, above 0 is worse (sign and mean are those of the tables'
"delta"). A limit is kept when the one-sided bound of the drop is inside it: both networks are seen on the
same images, which are resampled together (prune_utils/bootstrap.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from configs.schema import Contract
from dataloaders.streams import evaluation_batches
from prune_utils.ascent import task_of
from prune_utils.bootstrap import Bootstrap
from prune_utils.changes import change, drop
from prune_utils.seeds import generator
from tasks.base import Task
from tasks.sums import ImageSums, measures
from training.evaluate import image_sums

from .experiment import Experiment

T = TypeVar("T")


class Fall(NamedTuple):
    """What a network loses against the dense one: the drop on the images, and its bound. Percent."""

    drop: float
    bound: float


def halves(images: int, seed: int) -> tuple[list[int], list[int]]:
    """Places of the images that the search looks at, and of those that it never sees: a seeded half each."""
    order = torch.randperm(images, generator=generator(seed, "halves", images)).tolist()
    return sorted(order[: (images + 1) // 2]), sorted(order[(images + 1) // 2 :])


def broken(falls: Mapping[str, Fall], limits: Mapping[str, float]) -> list[str]:
    """The limits that the bounds of the drops are not inside of, in their order; NaN breaks one."""
    return [name for name, limit in limits.items() if not falls[name].bound <= limit]


def kept(falls: Mapping[str, Fall], limits: Mapping[str, float]) -> bool:
    """Whether the bound of every drop is inside its limit."""
    return not broken(falls, limits)


def lost(limits: Iterable[str]) -> dict[str, Fall]:
    """The falls of a network whose training diverged: NaN, which breaks every limit."""
    return dict.fromkeys(limits, Fall(math.nan, math.nan))


def is_lost(falls: Mapping[str, Fall]) -> bool:
    """Whether the falls are those of a network whose training diverged."""
    return all(math.isnan(fall.drop) and math.isnan(fall.bound) for fall in falls.values())


def certainty(falls: Mapping[str, Fall], limits: Mapping[str, float]) -> float:
    """How far the drops are inside their limits, in widths of their bounds; the least of all limits'.

    1 = the bound of one stands at its limit; infinite where all bounds are as sure as their drops.
    """
    return min(
        (limits[name] - fall.drop) / (fall.bound - fall.drop) if fall.bound > fall.drop else math.inf
        for name, fall in falls.items()
        if limits[name] < math.inf
    )


def to_certify(found: Iterable[tuple[T, float, Mapping[str, Fall]]], limits: Mapping[str, float]) -> list[T]:
    """What is to be looked at on images that the search has not seen, in this order, up to the first that
    breaks a limit there: networks that keep the limits on the search's images, the most certain first, and
    only those that are smaller than all before them.

    found: a network, its size, and its falls on the search's images. The order is fixed before the first
    look, so that their number needs no correction; the last one that passes is the smallest.
    """
    sure = [one for one in found if kept(one[2], limits)]
    order: list[tuple[T, float]] = []
    for network, size, _ in sorted(sure, key=lambda one: -certainty(one[2], limits)):
        if not order or size < order[-1][1]:
            order.append((network, size))
    return [network for network, _ in order]


class Judge:
    """What networks lose on some images.

    dense: the dense network's sums on these images, by task.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        tasks: Mapping[str, Task],
        dense: Mapping[str, ImageSums],
        protocol: str,
        settings: Contract,
        seed: int,
    ) -> None:
        self.limits, self.tasks, self.protocol = limits, tasks, protocol
        images = len(next(iter(dense.values())))
        self.bootstrap = Bootstrap(images, settings.resamples, settings.level, seed)
        self.dense = {task: self._measures(task, dense[task]) for task in tasks}

    def check(self) -> None:
        """ValueError for a measure of a limited task in which the dense network scores 0 or nothing, since
        nothing is a percentage of that."""
        for name in self.limits:
            task = task_of(name)
            for measure in self._measures_of(name):
                found = float(self.dense[task][measure][0])
                if not found or not math.isfinite(found):
                    raise ValueError(
                        f"the dense network's {measure} of {task} is {found:g} on the images that "
                        "judge it, of which nothing is a percentage: limit another measure alone, such as "
                        f"{task}.{self._sound(task)}=1"
                    )

    def falls(self, sums: Mapping[str, ImageSums]) -> dict[str, Fall]:
        """By limit, what a network with these sums on the same images loses."""
        now = {task: self._measures(task, sums[task]) for task in self.tasks}
        return {name: self._fall(name, now[task_of(name)], self.dense[task_of(name)]) for name in self.limits}

    def alone(self) -> dict[str, float]:
        """By limit, the bound of a drop of 0 that the dense network's images alone give: what another network
        would show whose mistakes have nothing to do with the dense network's."""
        still = {
            task: {m: row[:1].expand_as(row) for m, row in of.items()} for task, of in self.dense.items()
        }
        return {
            name: self._fall(name, self.dense[task_of(name)], still[task_of(name)]).bound
            for name in self.limits
        }

    def _measures(self, task: str, sums: ImageSums) -> dict[str, Tensor]:
        units = sums.added(self.bootstrap.by_unit)
        return measures(self.tasks[task], units, self.bootstrap.counts, self.protocol)

    def _measures_of(self, name: str) -> Iterable[str]:
        """The measures that a limit speaks of; none where anything may be lost."""
        if self.limits[name] == math.inf:
            return ()
        measure = name.partition(".")[2]
        return (measure,) if measure else self.tasks[name].directions

    def _sound(self, task: str) -> str:
        """A measure of the task in which the dense network scores something, for advice."""
        names = self.tasks[task].directions
        return next(
            (m for m in names if 0 < abs(float(self.dense[task][m][0])) < math.inf), next(iter(names))
        )

    def _fall(self, name: str, now: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> Fall:
        task, _, measure = name.partition(".")
        directions = self.tasks[task].directions
        chosen = [measure] if measure else list(directions)
        rows = [
            [
                change(value, base, directions[m].larger_is_better)
                for value, base in zip(now[m].tolist(), dense[m].tolist(), strict=True)
            ]
            for m in chosen
        ]
        drops = [drop(changes) for changes in zip(*rows, strict=True)]
        return Fall(*self.bootstrap.bound(torch.tensor(drops, dtype=torch.float64)))


def look(
    experiment: Experiment, network: nn.Module, split: str, places: Sequence[int] | None = None
) -> dict[str, ImageSums]:
    """By task, what images of a split add to its metric; places: of these alone."""
    records = experiment.records(split)
    if places is not None:
        records = replace(records, entries=tuple(records.entries[place] for place in places))
    progress = partial(tqdm, desc=f"looking at {split}", unit="batch", leave=False)
    stream = evaluation_batches(records, experiment.config.data, pinned=experiment.pinned)
    return image_sums(network, experiment.tasks, stream, fabric=experiment.fabric, progress=progress)


def judge(
    experiment: Experiment,
    limits: Mapping[str, float],
    dense: nn.Module,
    split: str,
    places: Sequence[int] | None = None,
) -> Judge:
    """What knows the dense network, which is on its device, on images of a split."""
    seen, config = look(experiment, dense, split, places), experiment.config
    return Judge(limits, experiment.tasks, seen, config.run.protocol, config.contract, config.run.seed)
