"""Where scores come from, in words without which they must not be shown beside others."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from configs.load import load
from configs.schema import Config
from dataloaders import DATASETS
from dataloaders.synthetic import SETTINGS_FILE

OVERLAP = "images both learnt from and scored on"


def origin(before: Iterable[str], config: Config) -> list[str]:
    """Remarks on what weights come from: `before`, of the file that they began with, and these settings'."""
    return list(dict.fromkeys([*before, *remarks(config)]))


@cache
def usual(dataset: str) -> Config:
    """The settings in the data set's YAML file, as they are when this is first asked for.

    `open_experiment` asks: an edit of the file during a run changes nothing.
    """
    return load(dataset)


def remarks(config: Config) -> list[str]:
    """What sets these data and this network apart from the data set and its own settings; [] for nothing.

    "synthetic rooms", where the data's folder holds the file that dataloaders/synthetic.py leaves there;
    OVERLAP, where the settings allow that and the index has such images; a
    width, backbone, number of classes or tasks that are not those of the data set's YAML file.
    """
    own = usual(config.data.dataset)
    words = ["synthetic rooms"] if (Path(config.data.root) / SETTINGS_FILE).is_file() else []
    if config.data.allow_overlap and DATASETS[config.data.dataset].overlaps(config.data):
        words.append(OVERLAP)
    if config.model.width != own.model.width:
        words.append(f"width {config.model.width:g}")
    if config.model.backbone != own.model.backbone:
        words.append(f"backbone {config.model.backbone}")
    if config.data.classes != own.data.classes:
        words.append(f"{config.data.classes} classes")
    if set(config.data.tasks) != set(own.data.tasks):
        words.append(f"tasks {', '.join(config.data.tasks)}")
    return words
