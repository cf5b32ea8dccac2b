"""Cityscapes from small files in the official formats."""

import json

import cv2
import numpy as np
import pytest

from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.prepare import cityscapes
from dataloaders.prepare.__main__ import main

SHAPE = (32, 64)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two training images and one for validation, at 32 x 64 and made into 8 x 16."""
    monkeypatch.setattr(cityscapes, "SIZE", (8, 16))
    folder, rng = tmp_path / "official", np.random.default_rng(0)
    for split, city, frame in (("train", "aachen", 19), ("train", "bochum", 38), ("val", "ulm", 57)):
        stem = f"{city}_000000_{frame:06d}"
        planes = {
            f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png": np.full(
                (*SHAPE, 3), (30, 60, 90), np.uint8
            ),
            f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png": np.repeat(
                np.repeat(rng.integers(0, 34, (8, 16)), 4, 0), 4, 1
            ).astype(np.uint8),
            f"disparity/{split}/{city}/{stem}_disparity.png": np.full(SHAPE, 3000 + frame, np.uint16),
        }
        for name, plane in planes.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name), plane)
    return folder


def test_train_ids():
    ids = np.array([[0, 7, 8, 11, 33, 29, 255]], np.uint8)
    np.testing.assert_array_equal(cityscapes.train_ids(ids, False), [[-1, 0, 1, 2, 18, -1, -1]])
    np.testing.assert_array_equal(
        cityscapes.train_ids(np.array([[0, 18, 19, 255]], np.uint8), True), [[0, 18, -1, -1]]
    )


def test_inverse_depth_is_valid_from_two_on():
    value = cityscapes.inverse_depth(np.array([[0, 1, 2, 32257]], np.uint16))
    assert value.shape == (1, 4, 1) and value.dtype == np.float32
    np.testing.assert_array_equal(value[0, :, 0] > 3e-5, [False, False, True, True])
    assert value[0, 3, 0] == pytest.approx(0.4922, abs=1e-4)


def test_round_trip(source, tmp_path):
    dest = tmp_path / "out"
    assert main(["cityscapes", str(source), str(dest), "--workers", "1"]) == 0
    index = json.loads((dest / "cityscape.json").read_text())
    assert {split: len(records) for split, records in index.items()} == {"train": 2, "test": 1}
    assert index["test"][0][0] == "test/image/ulm_000000_000057.npy"
    image, depth, label2, label7, label19 = (np.load(dest / path) for path in index["train"][0])
    np.testing.assert_allclose(image, np.broadcast_to(np.array([90, 60, 30]) / 255, (8, 16, 3)), rtol=1e-6)
    np.testing.assert_allclose(depth, 3019 / 65535, rtol=1e-6)
    official = cv2.imread(
        str(source / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED
    )
    np.testing.assert_array_equal(label19, cityscapes.train_ids(official[2::4, 2::4], False))
    assert set(np.unique(label7)) <= set(range(-1, 7)) and set(np.unique(label2)) <= {-1, 0, 1}
    for label in (label2, label7):
        np.testing.assert_array_equal(label == -1, label19 == -1)


def test_the_loader_reads_it(source, tmp_path):
    assert main(["cityscapes", str(source), str(tmp_path / "out"), "--workers", "1"]) == 0
    data = Data(dataset="cityscapes", root=str(tmp_path / "out"), classes=7)
    tasks = DATASETS["cityscapes"].make_tasks(("seg", "depth"), data, "metric")
    assert len(DATASETS["cityscapes"].open(data, "test", tasks, "metric")[0].planes) == 2


def test_folders_of_the_zip_files(source, tmp_path):
    (source / "leftImg8bit_trainvaltest").mkdir()
    (source / "leftImg8bit").rename(source / "leftImg8bit_trainvaltest" / "leftImg8bit")
    assert main(["cityscapes", str(source), str(tmp_path / "out"), "--workers", "1"]) == 0


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("disparity", "holds no folder disparity"),
        ("leftImg8bit/val", "holds no CITY/*_leftImg8bit.png"),
        ("disparity/train/aachen/aachen_000000_000019_disparity.png", "does not exist"),
        ("gtFine/val/ulm/ulm_000000_000057_gtFine_labelIds.png", "nor does"),
    ],
)
def test_missing_files_are_named(source, tmp_path, capsys, lost, words):
    (source / lost).rename(tmp_path / "lost")
    assert main(["cityscapes", str(source), str(tmp_path / "out"), "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_broken_picture_costs_its_record(source, tmp_path, capsys):
    path = source / "disparity/train/aachen/aachen_000000_000019_disparity.png"
    cv2.imwrite(str(path), np.zeros(SHAPE, np.uint8))
    assert main(["cityscapes", str(source), str(tmp_path / "out"), "--workers", "1"]) == 1
    said = capsys.readouterr().out
    assert (
        "1 records are left out:" in said and "aachen_000000_000019_disparity.png holds uint8 values" in said
    )
    index = json.loads((tmp_path / "out/cityscape.json").read_text())
    assert [record[0] for record in index["train"]] == ["train/image/bochum_000000_000038.npy"]


def test_archives_and_other_capitals_are_named(source, tmp_path, capsys):
    (source / "disparity").rename(source / "Disparity")
    assert main(["cityscapes", str(source), str(tmp_path / "out")]) == 2
    assert f"but {source / 'Disparity'} does: rename it" in capsys.readouterr().err
    (source / "Disparity").rename(tmp_path / "lost")
    (source / "disparity_trainvaltest.zip").write_bytes(b"")
    assert main(["cityscapes", str(source), str(tmp_path / "out")]) == 2
    assert "but disparity_trainvaltest.zip does: unpack it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plane", "dtype"),
    [
        ("disparity/train/aachen/aachen_000000_000019_disparity.png", np.uint16),
        ("gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png", np.uint8),
    ],
)
def test_a_target_of_another_size_costs_its_record(source, tmp_path, capsys, plane, dtype):
    cv2.imwrite(str(source / plane), np.full((16, 64), 7, dtype))
    assert main(["cityscapes", str(source), str(tmp_path / "out"), "--workers", "1"]) == 1
    image = source / "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    said = f"{image} and its targets differ in size: 32 x 64 and 16 x 64"
    assert f"1 records are left out:\n  {said}\n" in capsys.readouterr().out
    index = json.loads((tmp_path / "out/cityscape.json").read_text())
    assert [record[0] for record in index["train"]] == ["train/image/bochum_000000_000038.npy"]
