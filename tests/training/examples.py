"""A network, tasks and batches small enough to think about."""

from __future__ import annotations

import torch
from torch import nn

from tasks.base import Target
from tasks.depth import depth
from tasks.segmentation import segmentation


class Small(nn.Module):
    """Two heads on a strided convolution, with dropout so that the mode matters."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Dropout(0.5))
            self.heads = nn.ModuleDict({"seg": nn.Conv2d(4, 3, 1), "depth": nn.Conv2d(4, 1, 1)})

    def forward(self, image):
        features = self.trunk(image / 100)
        return {name: head(features) for name, head in self.heads.items()}


def make_tasks():
    return {"seg": segmentation(3), "depth": depth()}


def make_batch(images, seed, size=(8, 12)):
    """One batch (image, targets) with some invalid pixels."""
    generator = torch.Generator().manual_seed(seed)
    image = 100 * torch.randn(images, 3, *size, generator=generator)
    label = torch.randint(0, 3, (images, 1, *size), generator=generator)
    valid = torch.rand(images, 1, *size, generator=generator) > 0.25
    metres = 0.5 + torch.rand(images, 1, *size, generator=generator)
    return image, {"seg": Target(label * valid, valid), "depth": Target(metres * valid, valid)}


BATCHES = [make_batch(images, seed) for seed, images in enumerate((2, 1, 3, 2, 1))]
