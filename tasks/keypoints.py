"""Keypoint maps: the strength of keypoints at every pixel, stretched to [-1, 1]."""

from __future__ import annotations

from tasks.base import Task
from tasks.regression import regression


def keypoints() -> Task:
    """The task "keypoint"; targets [N, 1, H, W] in [-1, 1]."""
    return regression("keypoint")
