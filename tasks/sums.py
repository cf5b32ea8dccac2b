"""What a task's metric adds up, image by image, and the measures that any choice of images has.

A metric's states are sums (averages.py), so its state after one image is all that this image says of any set
which it is part of: the states of a set's images add up to the set's, and the metric computes the set's
measures from them, the very number, a histogram's median too. Each image is a batch of its own; under the
protocol `paper`, which averages over batches, that is an evaluation with data.eval_batch_size 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.base import Target, Task
from tasks.metric import Metric

CHUNK = 64  # resamples whose states are in memory at once


@dataclass(frozen=True)
class ImageSums:
    """The states of a task's metric after each image by itself.

    states: name of a state -> [images, ...], float64, or int32 where the state counts; on the CPU.
    """

    states: dict[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.states.values())))

    def among(self, places: Sequence[int]) -> ImageSums:
        """Of these images alone, in this order."""
        return ImageSums({name: state[list(places)] for name, state in self.states.items()})

    def added(self, by_unit: Callable[[Tensor], Tensor]) -> ImageSums:
        """Of units of images as if each were an image. by_unit: [images, ...] -> [units, ...]."""
        return ImageSums({name: by_unit(state) for name, state in self.states.items()})

    def totals(self, counts: Tensor) -> dict[str, Tensor]:
        """counts: int64 [R, images] -> of each row the states of its images together, [R, ...]."""
        totals = {}
        for name, state in self.states.items():
            # whole numbers below 2 ** 53 stay exact
            total = counts.double() @ state.flatten(1).double()
            total = total if state.is_floating_point() else total.round().long()
            totals[name] = total.reshape(len(counts), *state.shape[1:])
        return totals


class Collector:
    """Takes the predictions and targets of a task's images; `sums` is then what each of them adds."""

    def __init__(self, task: Task, device: torch.device | str = "cpu") -> None:
        self.metric = task.metric().to(device)
        self.rows: dict[str, list[Tensor]] = {name: [] for name in self.metric.states}

    def update(self, prediction: Tensor, target: Target) -> None:
        """prediction [N, channels, h, w] and target of N images."""
        for number in range(len(prediction)):
            one = slice(number, number + 1)
            self.metric.reset()
            self.metric.update(prediction[one], Target(target.value[one], target.valid[one]))
            for name, state in self.metric.states.items():
                self.rows[name].append(
                    state.to("cpu", torch.float64 if state.is_floating_point() else torch.int32, copy=True)
                )

    @property
    def sums(self) -> ImageSums:
        """Raises ValueError where there was no image."""
        if not next(iter(self.rows.values())):
            raise ValueError("there is nothing to evaluate: the loader has no batch")
        return ImageSums({name: torch.stack(row) for name, row in self.rows.items()})


def measures(task: Task, sums: ImageSums, counts: Tensor, protocol: str) -> dict[str, Tensor]:
    """Measure -> float64 [R], of each row of `counts`, int64 [R, images]: how often each image is in it."""
    metric = task.metric()
    found: dict[str, list[float]] = {name: [] for name in task.directions}
    for chunk in counts.split(CHUNK):
        for values in _computed(metric, sums.totals(chunk)):
            for name, row in found.items():
                row.append(values[protocol][name])
    return {name: torch.tensor(row, dtype=torch.float64) for name, row in found.items()}


def _computed(metric: Metric, totals: dict[str, Tensor]) -> Iterable[dict[str, dict[str, Any]]]:
    """The measures of each row of the states."""
    for states in zip(*totals.values(), strict=True):
        for name, state in zip(totals, states, strict=True):
            setattr(metric, name, state)
        yield metric.compute()
