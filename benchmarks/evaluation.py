"""Accumulating the scores of 480 x 640 images: streaming metrics beside per-image numpy lists.

Two tasks, 40 classes and normals, predictions at 60 x 80, one image a batch. The rival does as the published
evaluation does: predictions resized first, valid pixels picked out, numpy arrays of every pixel kept until
the end. Both are fed the same images in turn; networks and files are left out.

usage: python3 -m benchmarks.evaluation [--images 30] [--threads N]
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np
import torch
from torch.nn import functional

from common.command_line import Parser
from tasks.base import Target
from tasks.normals import normals
from tasks.segmentation import segmentation

from . import measure

SIZE, SMALL, CLASSES = (480, 640), (60, 80), 40


class NumpyLists:
    """Per-image numpy accumulation: every label, class and cosine of the data set stays in memory."""

    def __init__(self) -> None:
        self.labels: list[np.ndarray] = []
        self.classes: list[np.ndarray] = []
        self.cosines: list[np.ndarray] = []
        self.accuracies: list[np.ndarray] = []
        self.errors: list[np.ndarray] = []
        self.confusion = np.zeros((CLASSES, CLASSES))

    def update(self, preds: dict, targets: dict) -> None:
        self._segmentation(functional.interpolate(preds["seg"], size=SIZE), targets["seg"])
        self._normals(functional.interpolate(preds["sn"], size=SIZE), targets["sn"])

    def _segmentation(self, prediction: torch.Tensor, target: Target) -> None:
        valid = target.valid.flatten()
        label = target.value.flatten()[valid]
        logits = prediction.permute(0, 2, 3, 1).reshape(-1, CLASSES)[valid]
        self.errors.append(functional.cross_entropy(logits, label).numpy())
        found = prediction.argmax(1).flatten()[valid]
        self.accuracies.append((found == label).float().mean().numpy())
        self.labels.append(label.int().numpy())
        self.classes.append(found.int().numpy())
        pairs = self.labels[-1] * CLASSES + self.classes[-1]
        self.confusion += np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)

    def _normals(self, prediction: torch.Tensor, target: Target) -> None:
        valid = target.valid.flatten()
        truth = functional.normalize(target.value.permute(0, 2, 3, 1).reshape(-1, 3)[valid], dim=1)
        guess = functional.normalize(prediction.permute(0, 2, 3, 1).reshape(-1, 3)[valid], dim=1)
        self.cosines.append(functional.cosine_similarity(truth, guess).numpy())

    def compute(self) -> dict:
        hits = np.diag(self.confusion)
        overlap = hits / (self.confusion.sum(0) + self.confusion.sum(1) - hits).clip(1)
        angles = np.degrees(np.arccos(np.concatenate(self.cosines).clip(-1, 1)))
        return {
            "mIoU": 100 * overlap[hits > 0].mean(),
            "pixel_acc": 100 * np.mean(self.accuracies),
            "err": np.mean(self.errors),
            "mean": angles.mean(),
            "median": np.median(angles),
            "30": 100 * (angles <= 30).mean(),
        }

    def kept(self) -> int:
        """Bytes held between two updates."""
        return sum(array.nbytes for array in [*self.labels, *self.classes, *self.cosines])


class Streaming:
    """The metrics of the tasks."""

    def __init__(self) -> None:
        tasks = segmentation(CLASSES), normals(encoding="encoded")
        self.metrics = {task.name: task.metric() for task in tasks}

    def update(self, preds: dict, targets: dict) -> None:
        for name, metric in self.metrics.items():
            metric.update(preds[name], targets[name])

    def compute(self) -> dict:
        seg, sn = (metric.compute()["paper"] for metric in self.metrics.values())
        return seg | sn

    def kept(self) -> int:
        """Bytes held between two updates."""
        states = [state for metric in self.metrics.values() for state in metric.states.values()]
        return sum(state.nbytes for state in states if isinstance(state, torch.Tensor))


def make_image(generator: torch.Generator) -> tuple[dict, dict]:
    """Predictions and targets of one image; every fifth pixel is invalid, two thirds are about right."""
    blocks = torch.randint(0, CLASSES, (1, 1, 12, 16), generator=generator).double()
    value = functional.interpolate(blocks, size=SIZE).long()
    seen = functional.interpolate(blocks, size=SMALL).long()[:, 0]
    logits = torch.randn(1, CLASSES, *SMALL, generator=generator)
    logits += 3 * functional.one_hot(seen, CLASSES).movedim(-1, 1)
    vectors = 255 * torch.rand(1, 3, *SMALL, generator=generator)
    noise = 40 * torch.randn(1, 3, *SIZE, generator=generator)
    truth = (functional.interpolate(vectors, size=SIZE) + noise).clamp(0, 254)
    valid = torch.rand(1, 1, *SIZE, generator=generator) > 0.2
    targets = {"seg": Target(value * valid, valid), "sn": Target(truth * valid, valid)}
    return {"seg": logits, "sn": vectors}, targets


def updates(ways: dict, images: list, count: int) -> dict[str, list[float]]:
    """Seconds of every update; the ways take turns, so that a busy machine slows both."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-3, count):  # three updates to warm up
        for name, way in ways.items():
            start = time.perf_counter()
            way.update(*images[number % len(images)])
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=30, help="updates measured")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    measure.describe_machine(asked.threads)
    images = [make_image(torch.Generator().manual_seed(seed)) for seed in range(4)]
    ways: dict[str, NumpyLists | Streaming] = {"numpy lists": NumpyLists(), "streaming": Streaming()}
    seconds = updates(ways, images, asked.images)
    medians = {name: 1000 * statistics.median(taken) for name, taken in seconds.items()}
    rows: list[list[object]] = []
    scores: dict[str, dict] = {}
    for name, way in ways.items():
        start = time.perf_counter()
        scores[name] = way.compute()
        finish = 1000 * (time.perf_counter() - start)
        faster = medians["numpy lists"] / medians[name]
        rows.append(
            [name, medians[name], 1000 / medians[name], faster, f"{way.kept() / measure.MB:.2f}", finish]
        )
    print(f"{asked.images} images of 480 x 640, 40 classes and normals\n")
    measure.show(["way", "median ms", "images/s", "faster", "kept MB", "compute ms"], rows)
    print()
    measure.show(
        ["score", *ways],
        [[score, *(f"{scores[name][score]:.6f}" for name in ways)] for score in scores["numpy lists"]],
    )


if __name__ == "__main__":
    main()
