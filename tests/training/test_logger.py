"""The CSV of a run: rows as they come, cut where a resumed run begins, no file before the first."""

import csv

import numpy as np

from training.logger import HEADER, MetricLogger


def logger(path, start=0, writes=True):
    return MetricLogger(path, "none", 10, start, writes)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_no_file_before_the_first_figure(tmp_path):
    one = logger(tmp_path / "new" / "run.csv")
    one.add(1, "mask", {})
    one.sync()
    assert list(tmp_path.iterdir()) == []
    one.add(1, "train", {"loss": 0.1 + 0.2, "lr": 1e-3})
    assert rows(tmp_path / "new" / "run.csv") == [
        list(HEADER),
        ["1", "train", "loss", repr(0.1 + 0.2)],
        ["1", "train", "lr", "0.001"],
    ]
    one.close()


def test_a_resumed_run_takes_back_what_came_after_its_checkpoint(tmp_path):
    path = tmp_path / "run.csv"
    first = logger(path)
    for step in range(1, 6):
        first.add(step, "train", {"loss": step})
    first.close()
    with path.open("a") as file:
        file.write("6,train,lo")  # killed in the middle of a row
    again = logger(path, start=3)
    again.add(4, "train", {"loss": 40})
    again.close()
    assert [row[3] for row in rows(path)[1:]] == ["1.0", "2.0", "3.0", "40.0"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.csv"]


def test_a_fresh_run_replaces_the_rows_of_another(tmp_path):
    path = tmp_path / "run.csv"
    for value in (1, 2):
        one = logger(path)
        one.add(1, "train", {"loss": value})
        one.close()
    assert [row[3] for row in rows(path)[1:]] == ["2.0"]


def test_only_the_first_process_writes(tmp_path):
    one = logger(tmp_path / "run.csv", writes=False)
    one.add(1, "train", {"loss": 1.0})
    one.sync()
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_curves_of_a_replaced_run_go(tmp_path):
    for value in (1.0, 2.0):
        one = MetricLogger(tmp_path / "run.csv", "tensorboard", 10)
        one.add(1, "train", {"loss": value, "odd": float("nan")})
        one.picture(1, "validation", np.full((4, 6, 3), 200, np.uint8))
        one.close()
    folder = tmp_path / "tensorboard" / "run"
    assert one.board == folder and len(list(folder.iterdir())) == 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 2.0)]
    assert [(e.step, e.width, e.height) for e in events.Images("validation")] == [(1, 6, 4)]


def test_the_bar_keeps_the_scores_of_the_last_validation(tmp_path):
    one = logger(tmp_path / "run.csv")
    one.tick(1, {"loss": 0.5})
    one.show({"seg mIoU": "23.10"})
    one.tick(2, {"loss": 0.25})
    assert (one.bar.n, one.bar.postfix) == (2, "loss=0.25, seg mIoU=23.10")
    one.close()
