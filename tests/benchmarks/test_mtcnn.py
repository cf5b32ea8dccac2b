"""The arithmetic of benchmarks/mtcnn.py by hand; the networks themselves need facenet-pytorch."""

import numpy as np
import pytest
import torch

from benchmarks.mtcnn import _overlap, _square, boxes, compare, photographs


def box(*corners):
    return np.array(corners, float), np.zeros((5, 2))


def test_boxes_are_matched_once_by_overlap():
    one, other, far = box(0, 0, 10, 10), box(0, 0, 10, 8), box(50, 50, 60, 60)
    assert _overlap(one[0], other[0]) == 0.8
    assert _overlap(one[0], far[0]) == 0
    shifted = (other[0], other[1] + [3.0, 4.0])
    found = boxes([[one, one], [far]], [[shifted, far], []])
    assert (found.dense, found.found, found.extra) == (3, 1, 1)
    assert found.overlap == pytest.approx(0.8)
    assert found.points == pytest.approx(5.0)


def test_a_moved_box_is_squared_about_its_middle():
    moved = _square(torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([[0.1, 0.0, 0.1, 0.0]]))
    assert moved.tolist() == [[-4.0, 0.0, 16.0, 20.0]]


def test_figures_of_a_stage_by_hand():
    dense = {"probability": torch.tensor([0.9, 0.8, 0.1, 0.2]), "box": torch.zeros(4, 4)}
    sparse = {"probability": torch.tensor([0.8, 0.1, 0.1, 0.9]), "box": torch.full((4, 4), 0.5)}
    found = compare([{"rnet": dense}], [{"rnet": sparse}])["rnet"]
    assert (found.windows, found.passing) == (4, 2)
    assert found.probability == pytest.approx((0.1 + 0.7 + 0 + 0.7) / 4)
    assert found.probability_passing == pytest.approx(0.4)
    assert (found.kept, found.extra, found.box) == (0.5, 0.5, 0.5)


def test_the_last_quarter_is_held_back(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    learn, held = photographs([tmp_path])
    assert [path.stem for path in held] == ["6", "7"]
    assert len(learn) == 6
    (tmp_path / "few").mkdir()
    with pytest.raises(ValueError, match="few holds 0 photographs"):
        photographs([tmp_path / "few"])
