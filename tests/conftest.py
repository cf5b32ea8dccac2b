"""What several test files share: a multitask network of under 1,000 weights, its losses and a batch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)  # tensors this small are slower on several
# the same examples every time; HYPOTHESIS_PROFILE=search draws new ones
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """No test depends on the random numbers that others drew before it."""
    torch.manual_seed(0)


class TinyTasks(nn.Module):
    """A trunk with batch norm and dropout, a branch that all tasks but the last use, and a head per task."""

    def __init__(self, tasks: tuple[str, ...]):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.25)
        self.trunk = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.branch = nn.Conv2d(4, 4, 1)
        self.heads = nn.ModuleDict({task: nn.Linear(4, 3) for task in tasks})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        shared = self.trunk(self.drop(torch.relu(self.norm(self.stem(image)))))
        last = list(self.heads)[-1] if len(self.heads) > 1 else None
        branch = self.branch(torch.relu(shared))
        inputs = {task: shared if task == last else branch for task in self.heads}
        return {task: head(inputs[task].mean((2, 3))) for task, head in self.heads.items()}


class Tiny:
    """A network with everything that a vote needs: `model`, `losses`, `owners`, `weights`, `batches`."""

    def __init__(self, tasks: tuple[str, ...], device: str = "cpu"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = TinyTasks(tasks).to(device)
        chance = torch.Generator().manual_seed(1)
        self.batches = [self._batch(tasks, chance, device) for _ in range(2)]
        self.losses: dict[str, Callable] = {task: self._loss(task) for task in tasks}
        self.weights = {task: 1.0 + i for i, task in enumerate(tasks)}
        everybody = frozenset(tasks)
        self.owners = {
            "stem.weight": everybody,
            "trunk.weight": everybody,
            "branch.weight": everybody if len(tasks) == 1 else everybody - {tasks[-1]},
        } | {f"heads.{task}.weight": frozenset({task}) for task in tasks}

    @staticmethod
    def _loss(task: str) -> Callable:
        return lambda predictions, targets: (predictions[task] - targets[task]).square().mean()

    @staticmethod
    def _batch(tasks: tuple[str, ...], chance: torch.Generator, device: str):
        image = torch.randn(3, 2, 5, 5, generator=chance).to(device)
        return image, {task: torch.randn(3, 3, generator=chance).to(device) for task in tasks}


@pytest.fixture
def tiny() -> Callable[..., Tiny]:
    """tiny("a", "b") is a small network with these tasks; tiny("a", device="meta") on another device."""
    return lambda *tasks, device="cpu": Tiny(tasks or ("a", "b"), device)


@pytest.fixture(scope="session")
def rooms(tmp_path_factory) -> Path:
    """Root of a synthetic data set in the NYUv2 layout: 12 images of 64 x 80."""
    from dataloaders.synthetic import write

    root = tmp_path_factory.mktemp("rooms")
    write(root, "nyuv2", 12, size=(64, 80))
    return root


@pytest.fixture(scope="session")
def many_rooms(tmp_path_factory) -> Path:
    """Root of 48 synthetic rooms of 48 x 64, of which 20 validate and 10 test."""
    from dataloaders.synthetic import write

    root = tmp_path_factory.mktemp("many_rooms")
    write(root, "nyuv2", 48, size=(48, 64))
    path = root / "nyu_v2_3task.json"
    index = json.loads(path.read_text())
    missing = 20 - len(index["val"])
    index["val"] += index["train"][:missing]
    index["train"] = index["train"][missing:]
    path.write_text(json.dumps(index))
    return root
