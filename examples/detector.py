"""A sparse torchvision detector: in training mode its losses come out of the model, one for every task.

python3 examples/detector.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import prune_utils as pu


def draw(number: int, seed: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Batches of two images with a bright box each, as torchvision's detectors take them."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        images = [0.1 * torch.rand(3, 160, 160, generator=generator) for _ in range(2)]
        targets = []
        for image in images:
            left, top = torch.randint(0, 80, (2,), generator=generator).tolist()
            image[:, top : top + 64, left : left + 64] += 0.8
            box = torch.tensor([[left, top, left + 64, top + 64]], dtype=torch.float)
            targets.append({"boxes": box, "labels": torch.tensor([1])})
        yield images, targets


def main(steps: int = 3) -> dict[str, Any]:
    torch.manual_seed(0)
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    losses = {
        "box": lambda out, batch: out["bbox_regression"],
        "class": lambda out, batch: out["classification"],
    }
    sparsity = pu.sparsify(
        model, losses, draw(2, seed=1), ratio=80, forward=lambda model, batch: model(batch[0], batch[1])
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    sparsity.attach(optimizer)
    model.train()
    for images, targets in draw(steps, seed=2):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    print(pu.format_certificate(sparsity.certificate))
    return sparsity.verify()


if __name__ == "__main__":
    print(main())
