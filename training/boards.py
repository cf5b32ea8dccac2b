"""Where a run shows its figures and pictures beside the CSV: TensorBoard, Weights & Biases or MLflow.

All three are Lightning's loggers; this file names them, says where their files are, and how each takes a
picture. Leaves out the CSV, which is the record of a run (logger.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NONE = "none"


@dataclass(frozen=True)
class Board:
    """An open place to show things. figures: takes names with values and a step; picture: a name, uint8 RGB
    [H, W, 3] and a step; flush, close: as of a file."""

    figures: Callable[[dict[str, float], int], None]
    picture: Callable[[str, np.ndarray, int], None]
    flush: Callable[[], None]
    close: Callable[[], None]


def _tensorboard(folder: Path, start: int) -> Board:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    if start == 0:  # another run's curves
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
    logger = TensorBoardLogger(folder.parent, name=folder.name, version="", purge_step=start + 1)
    writer: Any = logger.experiment
    return Board(
        logger.log_metrics,
        lambda name, picture, step: writer.add_image(name, picture, step, dataformats="HWC"),
        writer.flush,
        writer.close,
    )


def _wandb(folder: Path, start: int) -> Board:
    from lightning.pytorch.loggers import WandbLogger

    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "run.txt"  # which run goes on when this one is resumed
    known = mark.read_text(encoding="utf-8") if start and mark.is_file() else None
    logger = WandbLogger(folder.name, str(folder), id=known, project="disparse", resume="allow")
    mark.write_text(logger.experiment.id, encoding="utf-8")
    return Board(
        logger.log_metrics,
        lambda name, picture, step: logger.log_image(name, [picture], step),
        lambda: None,
        logger.experiment.finish,
    )


def _mlflow(folder: Path, start: int) -> Board:
    from lightning.pytorch.loggers import MLFlowLogger

    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "run.txt"
    known = mark.read_text(encoding="utf-8") if start and mark.is_file() else None
    # a server where the environment names one, else a file
    server = os.environ.get("MLFLOW_TRACKING_URI")
    place = server or f"sqlite:///{folder.absolute()}/mlflow.db"
    artifacts = None if server else (folder.absolute() / "artifacts").as_uri()
    logger = MLFlowLogger("disparse", folder.name, place, run_id=known, artifact_location=artifacts)
    client, run = logger.experiment, str(logger.run_id)
    mark.write_text(run, encoding="utf-8")
    return Board(
        logger.log_metrics,
        lambda name, picture, step: client.log_image(run, picture, f"{name}/{step:08d}.png"),
        lambda: None,
        lambda: logger.finalize("success"),
    )


BOARDS: dict[str, Callable[[Path, int], Board]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
PACKAGES = {"wandb": ("lightning", "wandb"), "mlflow": ("lightning", "mlflow", "sqlalchemy")}


def board_folder(kind: str, dest: Path, stem: str) -> Path | None:
    """Where the files of a run's board are; None where there is no board."""
    return None if kind == NONE else dest / kind / stem
