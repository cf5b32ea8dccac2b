"""The tasks: loss, metric, decoding and picture of each, keyed by name. Imports nothing heavy by itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from common.choices import not_one_of

# task name -> where its builder is, in the order in which tables and published weights list the tasks
TASKS = {
    "seg": "tasks.segmentation:segmentation",
    "sn": "tasks.normals:normals",
    "depth": "tasks.depth:depth",
    "keypoint": "tasks.keypoints:keypoints",
    "edge": "tasks.edges:edges",
}


def builder(name: str) -> Callable:
    """The function that builds the task of this name. Raises ValueError for a name that is not in TASKS."""
    if name not in TASKS:
        raise ValueError(not_one_of("task", name, sorted(TASKS)))
    module, function = TASKS[name].split(":")
    return getattr(import_module(module), function)
