"""Learning curves: what is read from a CSV, and what is drawn of it."""

import pytest

from training.curves import draw_curves, read_curves

ROWS = """step,phase,name,value
10,train,seg,2.0
10,train,total,2.5
10,train,sn,nan
20,train,seg,1.0
20,evaluate,loss/seg,1.5
20,evaluate,loss/sn,0.5
20,evaluate,loss/total,2.0
20,evaluate,metric/seg/mIoU,10.0
20,evaluate,metric/sn/mean,30.0
40,evaluate,loss/seg,1.25
40,evaluate,metric/seg/mIoU,12.0
50,trai"""


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "run_training.csv"
    path.write_text(ROWS)
    return path


def test_figures_are_read_by_phase_and_name(record):
    curves = read_curves(record)
    assert curves["train", "seg"] == [(10, 2.0), (20, 1.0)]
    assert curves["evaluate", "metric/seg/mIoU"] == [(20, 10.0), (40, 12.0)]
    assert ("train", "sn") not in curves  # a nan is no point


def test_what_is_no_record_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*none.csv: launch_training.py writes it"):
        read_curves(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("step,phase,name,value\n")
    with pytest.raises(ValueError, match="empty.csv holds no figures"):
        read_curves(tmp_path / "empty.csv")


def lines(monkeypatch, tmp_path, runs):
    """Label and points of every line that is drawn, by the title of its column and its row."""
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *how, **more: (figures.append(figure), savefig(figure, *how, **more)),
    )
    draw_curves(runs, tmp_path / "curves.png", "metric")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    axes = figures[0].axes
    return [
        [(line.get_label(), list(zip(*line.get_data(), strict=True))) for line in one.get_lines()]
        for one in axes
    ], [one.get_ylabel() for one in axes]


def test_one_run_shows_training_and_validation(record, monkeypatch, tmp_path):
    drawn, labels = lines(monkeypatch, tmp_path, {"run": read_curves(record)})
    assert labels == ["loss", "loss", "mIoU", "mean"]
    assert drawn[0] == [("train", [(10, 2.0), (20, 1.0)]), ("validation", [(20, 1.5), (40, 1.25)])]
    assert [points for _, points in drawn[2]] == [[(20, 10.0), (40, 12.0)]]


def test_several_runs_show_validation_alone(record, monkeypatch, tmp_path):
    curves = read_curves(record)
    drawn, _ = lines(monkeypatch, tmp_path, {"dense": curves, "sparse": curves})
    assert [label for label, _ in drawn[0]] == ["dense", "sparse"]


def test_every_run_shows_the_measure_of_its_own_protocol(record, tmp_path, monkeypatch):
    curves = read_curves(record)
    paper = {(phase, name.replace("metric/", "paper/")): [(20, 11.0)] for phase, name in curves}
    seen = []
    monkeypatch.setattr(
        "training.curves._plot", lambda axes, of, name, style: seen.append((of is paper, name))
    )
    draw_curves({"a": curves, "b": paper}, tmp_path / "x.png", {"a": "metric", "b": "paper"})
    assert [of for of in seen if of[1].endswith("mIoU")] == [
        (False, "metric/seg/mIoU"),
        (True, "paper/seg/mIoU"),
    ]


def test_nothing_validated_is_said(tmp_path):
    with pytest.raises(ValueError, match="no run was evaluated"):
        draw_curves({"run": {("train", "seg"): [(1, 2.0)]}}, tmp_path / "curves.png", "paper")


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"earlier")

    def full_disk(figure, file, **more):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full_disk)
    with pytest.raises(OSError, match="cannot write .*curves.png: No space left"):
        draw_curves({"run": {("evaluate", "loss/seg"): [(1, 2.0)]}}, path, "paper")
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]
