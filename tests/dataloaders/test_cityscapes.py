"""Cityscapes: decoding worked by hand, the three label sets, both protocols."""

import numpy as np
import pytest
import torch

from dataloaders import DATASETS, cityscapes
from dataloaders.base import BrokenSample
from dataloaders.transforms import whole
from tasks.base import Geometry
from tests.dataloaders import small


def test_image_becomes_bgr():
    assert cityscapes.decode_image(np.array([[[1, 0.2, 0]]], np.float32)).tolist() == [[[0, 51, 255]]]


@pytest.mark.parametrize("colour", [2.0, -0.5, np.nan])
def test_colours_out_of_range(colour):
    with pytest.raises(ValueError, match=r"where colours in \[0, 1\] belong"):
        cityscapes.decode_image(np.full((1, 1, 3), colour, np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float32, np.float64])
def test_labels(dtype):
    value, valid = cityscapes.decode_labels(np.array([[0, 18, -1]], dtype))
    assert value.tolist() == [[[0, 18, 0]]] and value.dtype == np.int64
    assert valid.tolist() == [[True, True, False]]


def test_fractional_labels():
    with pytest.raises(ValueError, match="fractions"):
        cityscapes.decode_labels(np.array([[0.5]]))


def test_disparity():
    value, valid = cityscapes.decode_disparity(np.array([[0.25, 3e-5, 4e-5, 0, -1]], np.float32))
    assert value.tolist() == [[[np.float32(v) for v in (0.25, 3e-5, 4e-5, 0, 0)]]]
    assert valid.tolist() == [[True, False, True, False, False]]


@pytest.mark.parametrize("classes", [2, 7, 19])
def test_number_of_classes_chooses_the_label_file(tmp_path, classes):
    data = small.settings("cityscapes", small.cityscapes(tmp_path), classes=classes, tasks=("seg",))
    records = small.opened(data)
    _, targets = records.crop(0, records[0], whole(small.SIZE))
    label = torch.from_numpy(small.numbers(0, classes + 1, dtype=np.int64) - 1)
    assert targets["seg"].valid[0].equal(label >= 0)
    assert targets["seg"].value[0].equal(label.clamp(min=0))


def test_other_numbers_of_classes(tmp_path):
    data = small.settings("cityscapes", tmp_path, classes=20)
    with pytest.raises(ValueError, match="^data.classes 20 is not one of 2, 7, 19$"):
        DATASETS["cityscapes"].make_tasks(["seg"], data, "paper")


@pytest.mark.parametrize(("protocol", "scale"), [("paper", "keep"), ("metric", "multiply")])
def test_geometry_of_the_protocols(tmp_path, protocol, scale):
    records = small.opened(small.settings("cityscapes", small.cityscapes(tmp_path)), protocol=protocol)
    assert records.geometry == {"seg": Geometry(), "depth": Geometry(scale=scale)}


def test_image_and_disparity_end_to_end(tmp_path):
    records = small.opened(small.settings("cityscapes", small.cityscapes(tmp_path)))
    image, targets = records.crop(0, records[0], whole(small.SIZE))
    photo = torch.from_numpy(small.numbers(0, 256, (*small.SIZE, 3))[..., ::-1].copy()).permute(2, 0, 1)
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(3, 1, 1)
    assert torch.allclose(image, photo - mean, atol=1e-3)
    disparity = torch.from_numpy(small.numbers(0, 9) / np.float32(32))
    assert targets["depth"].value[0].equal(disparity) and targets["depth"].valid[0].equal(disparity > 0)


@pytest.mark.parametrize(
    ("file", "plane", "sentence"),
    [
        ("label19/0.npy", np.full(small.SIZE, 200), "holds label 200, neither within 0..18 nor -1"),
        ("label19/0.npy", np.full(small.SIZE, -2), "holds label -2, neither within 0..18 nor -1"),
        ("label19/0.npy", np.full(small.SIZE, np.nan), "holds label nan"),
        ("depth/0.npy", np.full(small.SIZE, -0.5), "holds -0.5 where disparity belongs"),
        ("depth/0.npy", np.full(small.SIZE, np.nan), "holds NaN or infinity where disparity belongs"),
        ("depth/0.npy", np.ones(small.SIZE, np.int32), "holds int32 values where floating point belongs"),
        ("depth/0.npy", np.ones((5, 5)), "is 5 x 5 where the image is 12 x 16"),
        ("image/0.npy", np.ones(small.SIZE), "has shape [12, 16] where [H, W, 3] belongs"),
        ("label19/0.npy", np.array([None]), "is no complete npy array"),
    ],
)
def test_broken_files(tmp_path, file, plane, sentence):
    root = small.cityscapes(tmp_path)
    np.save(root / file, plane)
    with pytest.raises(BrokenSample) as error:
        small.opened(small.settings("cityscapes", root))[0]
    assert str(error.value).startswith(f"{file} (record 0 of split 'test') {sentence}")
