"""NYUv2: decoding worked by hand, both protocols, and the real samples."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders import nyuv2
from dataloaders.base import BrokenSample
from dataloaders.streams import evaluation_batches
from dataloaders.transforms import whole
from tasks.base import Geometry
from tests.dataloaders import small

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "nyu_v2_samples"


def row(*values, dtype=np.uint8):
    return np.array([values], dtype)


def test_labels():
    value, valid = nyuv2.decode_labels(row(0, 39, 255))
    assert value.tolist() == [[[0, 39, 0]]] and value.dtype == np.int64
    assert valid.tolist() == [[True, True, False]]


def test_encoded_normals_keep_their_numbers_and_order():
    value, valid = nyuv2.decode_encoded_normals(row((0, 127, 254), (255, 0, 0), (0, 255, 0), (0, 0, 255)))
    assert value[:, 0, 0].tolist() == [0, 127, 254] and value.dtype == np.float32
    assert valid.tolist() == [[True, False, False, False]]


def test_decoded_normals():
    value, valid = nyuv2.decode_normals(row((0, 51, 204), (255, 102, 0)))
    assert np.allclose(value[:, 0, 0], [-1, -0.6, 0.6], atol=1e-6)
    assert np.allclose(value[:, 0, 1], [1, -0.2, -1], atol=1e-6)
    assert valid.tolist() == [[True, False]]


def test_depth():
    value, valid = nyuv2.decode_depth(row(1.5, 0, -1, np.inf, dtype=np.float32))
    assert value.tolist() == [[[1.5, 0, 0, 0]]] and value.dtype == np.float32
    assert valid.tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("protocol", "normals", "depth"),
    [("paper", Geometry(), Geometry()), ("metric", Geometry(hflip=2), Geometry(scale="divide"))],
)
def test_geometry_of_the_protocols(tmp_path, protocol, normals, depth):
    data = small.settings("nyuv2", small.nyuv2(tmp_path, 1, "test"))
    geometry = small.opened(data, protocol=protocol).geometry
    wanted = {"seg": Geometry(), "sn": normals, "depth": depth}
    assert {task: geometry[task] for task in wanted} == wanted


def test_a_record_end_to_end(tmp_path):
    records = small.opened(small.settings("nyuv2", small.nyuv2(tmp_path, 1, "test")), protocol="metric")
    sample = records[0]
    image, targets = records.crop(0, sample, whole(small.SIZE))
    assert sample.name == "img/0.png"
    photo, labels, normals = (
        small.numbers(0, n, (*small.SIZE, 3)[: 2 + c]) for n, c in ((256, 1), (40, 0), (255, 1))
    )
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(3, 1, 1)
    assert (image + mean).round().equal(torch.from_numpy(photo).permute(2, 0, 1).float())
    assert targets["seg"].value[0].equal(torch.from_numpy(labels).long()) and targets["seg"].valid.all()
    encoded = (targets["sn"].value + 1) / 2 * 255
    assert encoded.round().equal(torch.from_numpy(normals).permute(2, 0, 1).float())


def test_only_the_files_of_the_tasks_are_opened(tmp_path):
    root = small.nyuv2(tmp_path, 1, "test")
    (root / "depth/0.npy").unlink()
    (root / "normal/0.png").write_bytes(b"")
    assert list(small.opened(small.settings("nyuv2", root, tasks=("seg",)))[0].planes) == ["seg"]
    with pytest.raises(BrokenSample):
        small.opened(small.settings("nyuv2", root))[0]


@pytest.mark.skipif(not SAMPLES.exists(), reason="real samples are not here")
@pytest.mark.filterwarnings("ignore:image")
def test_real_samples():
    # the index of the samples holds them twice, for training and for testing
    with pytest.raises(ValueError, match="stand in split 'train' and in split 'test' .*--allow-overlap"):
        small.opened(small.settings("nyuv2", SAMPLES))
    data = small.settings("nyuv2", SAMPLES, allow_overlap=True)
    batches = list(evaluation_batches(small.opened(data, protocol="metric"), data))
    assert len(batches) == 2
    for image, targets in batches:
        assert image.shape == (1, 3, 480, 640)
        known = targets["sn"].valid[:, 0]
        lengths = targets["sn"].value.norm(dim=1)[known]
        assert 0.95 < lengths.median() < 1.05
        assert targets["sn"].value[:, 1][known].mean() < 0  # surfaces face the camera, z points away from it
        assert targets["seg"].value.max() < 40 and targets["seg"].valid.float().mean() > 0.7
        assert targets["depth"].value.min() > 0.5 and targets["depth"].value.max() < 10
