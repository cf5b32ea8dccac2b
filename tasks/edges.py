"""Edge maps: the strength of edges at every pixel, stretched to [-1, 1]."""

from __future__ import annotations

from tasks.base import Task
from tasks.regression import regression


def edges() -> Task:
    """The task "edge"; targets [N, 1, H, W] in [-1, 1]."""
    return regression("edge")
