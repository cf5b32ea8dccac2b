"""What a loader's workers do: fetch samples by key, and stack them to batches.

A broken sample is no exception here but a sentence in the parcel, because the main process counts them in
stream order (streams.py). A broken one is replaced by the next readable one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from common.choices import printable
from configs.schema import Data
from dataloaders import transforms
from dataloaders.base import BrokenSample, Item, Records
from tasks.base import Target

Batch = tuple[Tensor, dict[str, Target]]
Key = tuple[int, int]  # epoch and place in the records
SEED_BITS = 2**64  # seeds of numpy are not negative


class Fetched(NamedTuple):
    """What a worker found for one key: an item or None, its name, and the broken samples met on the way."""

    item: Item | None
    name: str
    broken: dict[int, str]  # place in the records -> sentence


class Parcel(NamedTuple):
    """What a worker hands over: a batch or None, the broken samples met, an error of no sample."""

    batch: Batch | None
    broken: dict[int, str]
    error: str = ""


class TrainingItems(Dataset):
    """Key (epoch, place) -> augmented item."""

    def __init__(self, records: Records, data: Data, seed: int) -> None:
        self.records, self.seed = records, seed
        self.crop, self.scale, self.hflip = data.crop, data.scale, data.hflip
        self.allowed = data.skip_unreadable

    def __getitem__(self, key: Key) -> Fetched:
        epoch, first = key
        broken: dict[int, str] = {}
        for place in (*range(first, len(self.records)), *range(first)):
            try:
                return Fetched(*self._item(epoch, first, place), broken)
            except BrokenSample as error:
                broken[place] = str(error)
            if len(broken) > self.allowed:
                break
        return Fetched(None, "", broken)

    def _item(self, epoch: int, first: int, place: int) -> tuple[Item, str]:
        sample = self.records[place]
        rng = np.random.default_rng((self.seed % SEED_BITS, epoch, first))
        crop = transforms.random_crop(rng, self.records.extent(sample), self.crop, self.scale, self.hflip)
        return self.records.crop(place, sample, crop), sample.name


class WholeItems(Dataset):
    """Key (0, place) -> the whole sample."""

    def __init__(self, records: Records, allowed: int) -> None:
        self.records, self.allowed = records, allowed

    def __getitem__(self, key: Key) -> Fetched:
        place = key[1]
        try:
            sample = self.records[place]
            crop = transforms.whole(self.records.extent(sample))
            return Fetched(self.records.crop(place, sample, crop), sample.name, {})
        except BrokenSample as error:
            return Fetched(None, "", {place: str(error)})


def collate_training(fetched: list[Fetched]) -> Parcel:
    """One parcel of a whole batch."""
    broken = _all_broken(fetched)
    items = [one.item for one in fetched if one.item is not None]
    if len(items) < len(fetched):
        return Parcel(None, broken, "no record of the training split can be read")
    return Parcel(_stack(items), broken)


def collate_whole(fetched: list[Fetched]) -> Parcel:
    """One parcel of the samples that could be read."""
    broken = _all_broken(fetched)
    found = [(one.name, one.item) for one in fetched if one.item is not None]
    sizes = {tuple(item[0].shape[-2:]): printable(name) for name, item in found}
    if len(sizes) > 1:
        named = ", ".join(f"{name} ({size[0]} x {size[1]})" for size, name in sizes.items())
        return Parcel(
            None, broken, f"images of unequal size in one batch: {named}; use data.eval_batch_size=1"
        )
    return Parcel(_stack([item for _, item in found]) if found else None, broken)


def _all_broken(fetched: list[Fetched]) -> dict[int, str]:
    return {place: sentence for one in fetched for place, sentence in one.broken.items()}


def _stack(items: list[Item]) -> Batch:
    image, targets = default_collate(items)
    return image, targets
