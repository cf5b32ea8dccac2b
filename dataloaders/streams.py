"""Batches: an endless seeded stream for training, whole images for evaluation.

Position p of the training stream is item p % n of the seeded permutation of epoch p // n, and its
augmentation comes from a generator seeded by (seed, epoch, index). So a batch depends on seed and step alone:
not on the number of workers, on where a resumed run starts, or on how many processes share the work.

Broken samples travel to the main process as sentences. There they are counted in stream order, so that the
same run stops at the same step whatever the number of workers. A process counts what it sees itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from configs.schema import Data
from dataloaders.base import BrokenSample, Records
from dataloaders.items import (
    SEED_BITS,
    Batch,
    Key,
    Parcel,
    TrainingItems,
    WholeItems,
    collate_training,
    collate_whole,
)
from dataloaders.workers import parcels, prepare


@dataclass(frozen=True)
class TrainingOrder:
    """The keys of each batch: concatenated seeded permutations, dealt into batches, this rank's part."""

    count: int
    batch_size: int
    seed: int
    steps: range
    rank: int
    world: int

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        share = self.batch_size // self.world
        known, order = -1, []
        for step in self.steps:
            first = step * self.batch_size + self.rank * share
            batch = []
            for epoch, place in (divmod(position, self.count) for position in range(first, first + share)):
                if epoch != known:
                    known, order = epoch, permutation(self.seed, epoch, self.count)
                batch.append((epoch, order[place]))
            yield batch


def permutation(seed: int, epoch: int, count: int) -> list[int]:
    """The order of the records in one epoch."""
    return np.random.default_rng((seed % SEED_BITS, epoch)).permutation(count).tolist()


Batches = TrainingOrder | list[list[Key]]


@dataclass
class Stream:
    """Batches (image [N, 3, H, W], targets) of a DataLoader of parcels, and the broken samples seen so far.

    broken: place in the records -> sentence; more than `allowed` of them raise BrokenSample. A run that
    goes on puts those there that it saw before.
    """

    loader: DataLoader
    allowed: int
    verb: str
    broken: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Batches in one pass."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for parcel in parcels(self.loader):
            for place, sentence in parcel.broken.items():
                self._count(place, sentence)
            if parcel.error:
                raise ValueError(parcel.error)
            if parcel.batch is not None:
                yield parcel.batch

    def _count(self, place: int, sentence: str) -> None:
        if place in self.broken:
            return
        if len(self.broken) >= self.allowed:
            spent = f"; data.skip_unreadable {self.allowed} is used up" if self.allowed else ""
            raise BrokenSample(sentence + spent)
        self.broken[place] = sentence
        warnings.warn(f"{sentence}; {self.verb} ({len(self.broken)} of at most {self.allowed})", stacklevel=3)


def training_batches(
    records: Records,
    data: Data,
    *,
    seed: int,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    pinned: bool = False,
) -> Stream:
    """Batches of steps start..stop-1 of the endless training stream, this rank's share of each.

    `data` is the Data section of the settings. Ranks in order give what one process gives. A broken sample is
    replaced by the next readable record. pinned: in memory that an accelerator copies from directly, which
    takes some of its own. Raises ValueError for settings that cannot work.
    """
    if data.batch_size % world:
        raise ValueError(f"data.batch_size {data.batch_size} cannot be dealt evenly to {world} processes")
    sampler = TrainingOrder(len(records), data.batch_size, seed, range(start, stop), rank, world)
    items = TrainingItems(records, data, seed)
    loader = _loader(items, sampler, collate_training, data, pinned)
    return Stream(loader, data.skip_unreadable, "replaced by the next one")


def evaluation_batches(
    records: Records, data: Data, *, rank: int = 0, world: int = 1, pinned: bool = False
) -> Stream:
    """Whole images, not augmented, data.eval_batch_size at a time; whole batches are dealt to the ranks.

    A broken sample is left out, never replaced: a duplicate would count twice. Images of unequal size in one
    batch raise ValueError with their names. pinned: as of training_batches.
    """
    size = data.eval_batch_size
    places = [(0, place) for place in range(len(records))]
    batches = [places[first : first + size] for first in range(0, len(places), size)][rank::world]
    items = WholeItems(records, data.skip_unreadable)
    return Stream(_loader(items, batches, collate_whole, data, pinned), data.skip_unreadable, "left out")


def _loader(
    items: Dataset, batches: Batches, collate: Callable[[list], Parcel], data: Data, pinned: bool
) -> DataLoader:
    workers = min(data.num_workers, len(batches))
    if workers == 0:  # samples are made here, by no more threads than everything else
        cv2.setNumThreads(torch.get_num_threads())
    return DataLoader(
        items,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=prepare,
        pin_memory=pinned,
        generator=torch.Generator(),  # else the loader draws from the global stream
    )
