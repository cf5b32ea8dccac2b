"""Weights & Biases (offline) and MLflow take figures and pictures, and go on with a run that is resumed."""

import numpy as np
import pytest

from training import boards

PICTURE = np.zeros((8, 9, 3), np.uint8)


def use(kind, folder, start, step):
    board = boards.BOARDS[kind](folder, start)
    board.figures({"train/loss": 1.0 / step}, step)
    board.picture("validation", PICTURE, step)
    board.flush()
    board.close()


@pytest.mark.slow
def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    pytest.importorskip("lightning")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start, step in ((0, 1), (1, 2)):
        use("wandb", tmp_path / "run", start, step)
    name = (tmp_path / "run" / "run.txt").read_text()
    assert len(list(tmp_path.rglob(f"run-{name}.wandb"))) == 2  # one run, told in two parts
    assert len(list(tmp_path.rglob("validation_*.png"))) == 2


@pytest.mark.slow
def test_mlflow_in_a_file(tmp_path, monkeypatch):
    pytest.importorskip("sqlalchemy")
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("lightning")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for start, step in ((0, 1), (1, 2)):
        use("mlflow", tmp_path / "run", start, step)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run'}/mlflow.db")
    run = (tmp_path / "run" / "run.txt").read_text()
    told = client.get_metric_history(run, "train/loss")
    assert [(metric.step, metric.value) for metric in told] == [(1, 1.0), (2, 0.5)]
    assert {path.name for path in tmp_path.rglob("*.png")} == {"00000001.png", "00000002.png"}


def test_files_of_a_board_lie_beside_the_record(tmp_path):
    assert boards.board_folder("wandb", tmp_path, "a_training") == tmp_path / "wandb" / "a_training"
    assert boards.board_folder("none", tmp_path, "a_training") is None
