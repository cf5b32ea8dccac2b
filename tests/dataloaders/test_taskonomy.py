"""Tiny-Taskonomy: decoding worked by hand, folders in either order, class weights, both protocols."""

import math

import cv2
import numpy as np
import pytest
import torch

from dataloaders import DATASETS, taskonomy
from dataloaders.base import BrokenSample
from dataloaders.streams import evaluation_batches
from dataloaders.transforms import whole
from tasks.base import Geometry, Target
from tests.dataloaders import small


def row(*values, dtype=np.uint16):
    return np.array([values], dtype)


def test_labels_under_both_protocols():
    ids = row(0, 1, 17, dtype=np.uint8)
    value, valid = taskonomy.decode_labels(ids)
    assert value.tolist() == [[[0, 0, 16]]] and value.dtype == np.int64
    assert valid.tolist() == [[False, True, True]]
    value, valid = taskonomy.decode_labels_and_void(ids)
    assert value.tolist() == [[[0, 0, 16]]] and valid.all()


def test_normals_are_red_first():
    value, valid = taskonomy.decode_normals(np.array([[[255, 51, 0]]], np.uint8))  # blue, green, red
    assert np.allclose(value[:, 0, 0], [-1, -0.6, 1], atol=1e-6) and valid.all()


def test_depth():
    value, valid = taskonomy.decode_depth(row(0, 255, 64499, 64500, 65535))
    expected = [0, 0.5, math.log(64500) / math.log(65536), math.log(64501) / math.log(65536), 1]
    assert np.allclose(value[0, 0], expected, atol=1e-6) and value.dtype == np.float32
    assert valid.tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize("top", [taskonomy.KEYPOINT_TOP, taskonomy.EDGE_TOP])
def test_stretched_planes(top):
    value, valid = taskonomy.decode_stretched(top, row(0, 100, 65535))
    assert np.allclose(value[0, 0], [-1, 100 / 65536 / top * 2 - 1, 1], atol=1e-6) and valid.all()


def test_tops():
    assert (taskonomy.KEYPOINT_TOP, taskonomy.EDGE_TOP) == (0.005, 0.08)


@pytest.mark.parametrize("by_domain", [True, False])
def test_folders_in_either_order(tmp_path, by_domain):
    records = small.opened(small.settings("taskonomy", small.taskonomy(tmp_path, by_domain=by_domain)))
    sample = records[0]
    assert sample.name == "hall/rgb/0.png"
    assert np.array_equal(sample.planes["seg"], small.numbers(0, 18))


def test_a_record_without_folders_is_missing(tmp_path):
    root = small.taskonomy(tmp_path)
    path = root / DATASETS["taskonomy"].index_file
    path.write_text(path.read_text().replace("hall/rgb/0.png", "0.png"))
    records = small.opened(small.settings("taskonomy", root))
    said = "0.png (record 0 of split 'test') is missing"
    assert records.missing(0) == [said]
    with pytest.raises(BrokenSample) as caught:
        records[0]
    assert str(caught.value) == said


@pytest.mark.parametrize("protocol", ["paper", "metric"])
def test_geometry_of_the_protocols(tmp_path, protocol):
    records = small.opened(small.settings("taskonomy", small.taskonomy(tmp_path)), protocol=protocol)
    still = dict.fromkeys(["seg", "depth", "keypoint", "edge"], Geometry())
    assert records.geometry == {**still, "sn": Geometry(hflip=0)}
    _, targets = records.crop(0, records[0], whole(small.SIZE))
    void = torch.from_numpy(small.numbers(0, 18) == 0)
    assert targets["seg"].valid[0].equal(~void if protocol == "metric" else torch.ones_like(void))


def test_everything_is_resized_first(tmp_path):
    data = small.settings("taskonomy", small.taskonomy(tmp_path), size=6)
    ((image, targets),) = evaluation_batches(small.opened(data), data)
    assert image.shape == (1, 3, 6, 6)
    edges = cv2.resize(small.numbers(0, 6000, dtype=np.uint16), (6, 6), interpolation=cv2.INTER_NEAREST)
    assert torch.allclose(
        targets["edge"].value[0, 0], torch.from_numpy(np.minimum(edges / 65536, 0.08) / 0.04 - 1).float()
    )


def test_planes_of_unequal_size_are_resized_alike(tmp_path):
    root = small.taskonomy(tmp_path)
    small.save(root / "depth_zbuffer/taskonomy/hall/0.png", np.full((24, 32), 255, np.uint16))
    records = small.opened(small.settings("taskonomy", root, size=8))
    _, targets = records.crop(0, records[0], whole((8, 8)))
    assert torch.allclose(targets["depth"].value, torch.full((1, 8, 8), 0.5))


def test_class_weights_reach_the_loss(tmp_path):
    data = small.settings("taskonomy", small.taskonomy(tmp_path))
    assert taskonomy.class_weights(data.root, 17).tolist() == list(range(1, 18))
    task = DATASETS["taskonomy"].make_tasks(["seg"], data, "paper")["seg"]
    value = torch.tensor([0, 16]).view(1, 1, 1, 2)
    prediction = torch.zeros(1, 17, 1, 2)
    prediction[0, 16, 0, 1] = 5.0
    nll = -prediction.log_softmax(1).gather(1, value).flatten()
    loss = task.loss(prediction, Target(value, torch.ones(1, 1, 1, 2, dtype=torch.bool)))
    assert loss.item() == pytest.approx(((nll[0] * 1 + nll[1] * 17) / 18).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (np.ones(11), r"has shape \[11\] where \[17\] belongs"),
        (np.full(17, np.nan), "holds weights that are negative or not finite"),
        (np.full(17, -1.0), "holds weights that are negative or not finite"),
        (np.zeros(17), "holds no weight above 0: no class would count"),
        (np.full(17, 1e300), "holds weights that are negative or not finite"),
        (np.full(17, "one"), "holds <U3 values where weights belong"),
        (b"\x93NUM", "is no complete npy array"),
        (None, "does not exist: .*dataloaders.synthetic DEST --layout taskonomy"),
    ],
)
def test_broken_class_weights(tmp_path, content, sentence):
    path = small.taskonomy(tmp_path) / "semseg_prior_factor.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"semseg_prior_factor.npy.*{sentence}"):
        DATASETS["taskonomy"].make_tasks(["seg"], small.settings("taskonomy", tmp_path), "paper")
    assert DATASETS["taskonomy"].make_tasks(["edge"], small.settings("taskonomy", tmp_path), "paper")


def test_labels_above_the_classes(tmp_path):
    root = small.taskonomy(tmp_path)
    with pytest.raises(
        BrokenSample, match=r"hall/segment_semantic/0.png .* holds label 17, neither within 1..11"
    ):
        np.save(root / "semseg_prior_factor.npy", np.ones(11))
        small.opened(small.settings("taskonomy", root, classes=11))[0]


def test_an_image_without_any_class_is_accepted(tmp_path):
    root = small.taskonomy(tmp_path)
    small.save(root / "segment_semantic/taskonomy/hall/0.png", np.zeros(small.SIZE, np.uint8))
    records = small.opened(small.settings("taskonomy", root), protocol="metric")
    _, targets = records.crop(0, records[0], whole(small.SIZE))
    assert not targets["seg"].valid.any() and not targets["seg"].value.any()
