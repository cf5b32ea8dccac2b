"""Mistakes in the arguments that the disk alone can tell: said at once, before torch is imported."""

from __future__ import annotations

from pathlib import Path

from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.index import existing_folder


def check_files(*files: str | None) -> None:
    """FileNotFoundError for a file that the command line names and that is not there; None = not named."""
    for file in files:
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"there is no file {file}")


def check_data(data: Data) -> None:
    """FileNotFoundError, saying how to get the data, for a data folder that is not there."""
    existing_folder(data.root, DATASETS[data.dataset].how_to_get)
