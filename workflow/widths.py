"""The widths that a saved network says it has, where channels were removed from it."""

from __future__ import annotations

import torch

from common.resizing import hollow, runs
from models.multitask import MultiTaskNet

IMAGE = 65  # side of the image that a network is tried on, in pixels


def cut_network(network: MultiTaskNet, shapes: object, source: object) -> None:
    """Gives a network the widths that a file says it has. ValueError where it cannot have them."""
    plain = isinstance(shapes, dict) and all(
        isinstance(name, str) and name.isprintable() and isinstance(shape, list)
        for name, shape in shapes.items()
    )
    if not plain or not isinstance(shapes, dict):
        raise ValueError(f"{source}: field 'network': shapes are not lists of numbers by tensor")
    try:
        network.cut(shapes)
    except ValueError as error:
        raise ValueError(f"{source}: field 'network': {error}") from None
    if not runs(hollow(network), torch.empty(1, 3, IMAGE, IMAGE, device="meta")):
        raise ValueError(f"{source}: field 'network': layers of these shapes do not fit together")
