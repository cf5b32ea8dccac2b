"""NYUv2 from small files in the official formats."""

import json

import cv2
import h5py
import numpy as np
import pytest
from scipy import io

from dataloaders.prepare.__main__ import main

HEIGHT, WIDTH = 24, 32


@pytest.fixture
def source(tmp_path):
    """Three images in MATLAB's axis order, and mapping and split as the toolbox stores them."""
    folder, rng = tmp_path / "official", np.random.default_rng(0)
    folder.mkdir()
    images = rng.integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)
    depths = np.full((3, HEIGHT, WIDTH), 2.0, np.float32)
    labels = rng.integers(0, 895, (3, HEIGHT, WIDTH)).astype(np.uint16)
    raw = depths.copy()
    raw[:, :3] = 0
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        for key, planes in (("depths", depths), ("labels", labels), ("rawDepths", raw)):
            file[key] = planes.transpose(0, 2, 1)
    io.savemat(folder / "classMapping40.mat", {"mapClass": (np.arange(894) % 41)[None].astype(np.uint8)})
    io.savemat(folder / "splits.mat", {"trainNdxs": np.array([[3], [1]]), "testNdxs": np.array([[2]])})
    return folder, images, depths, labels


def run(folder, dest, *options):
    return main(["nyuv2", str(folder), str(dest), "--workers", "1", *options])


def test_round_trip(source, tmp_path):
    folder, images, depths, labels = source
    dest = tmp_path / "out"
    assert run(folder, dest) == 0
    index = json.loads((dest / "nyu_v2_3task.json").read_text())
    assert {s: [r[0] for r in index[s]] for s in index} == {
        "train": ["img/0001.png", "img/0003.png"],
        "test": ["img/0002.png"],
    }
    for number in (1, 2, 3):
        name, place = f"{number:04d}", number - 1
        stored = cv2.imread(str(dest / f"img/{name}.png"))[..., ::-1]
        np.testing.assert_array_equal(stored, images[place])
        np.testing.assert_array_equal(np.load(dest / f"depth/{name}.npy"), depths[place])
        seg = cv2.imread(str(dest / f"seg/{name}.png"), cv2.IMREAD_UNCHANGED)
        original = labels[place].astype(int)
        mapped = np.where(original == 0, 0, (original - 1) % 41)  # mapClass, 0 = none
        np.testing.assert_array_equal(seg, np.where(mapped == 0, 255, mapped - 1))


def test_computed_normals(source, tmp_path):
    folder, *_ = source
    assert run(folder, tmp_path / "out") == 0
    stored = cv2.imread(str(tmp_path / "out/normal_mask/0001.png"))[..., ::-1].astype(int)
    assert (stored[:3] == 255).all()  # no raw depth
    # a wall straight ahead looks back at the camera: right and up are 0, forward is -1
    np.testing.assert_allclose(stored[3:], np.broadcast_to([127.5, 0, 127.5], (HEIGHT - 3, WIDTH, 3)), atol=1)


def test_given_normals(source, tmp_path):
    folder, *_ = source
    given = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    (tmp_path / "normals").mkdir()
    for number in (1, 3):
        cv2.imwrite(str(tmp_path / f"normals/{number:04d}.png"), given)
    assert run(folder, tmp_path / "out", "--normals", str(tmp_path / "normals")) == 2  # 0002 is missing
    cv2.imwrite(str(tmp_path / "normals/0002.png"), given)
    assert run(folder, tmp_path / "out", "--normals", str(tmp_path / "normals")) == 0
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out/normal_mask/0002.png")), given)


def test_restart_keeps_finished_records(source, tmp_path):
    folder, *_ = source
    dest = tmp_path / "out"
    assert run(folder, dest) == 0
    kept, lost = dest / "img/0001.png", dest / "seg/0002.png"
    before = kept.stat().st_mtime_ns
    content = lost.read_bytes()
    lost.unlink()
    assert run(folder, dest) == 0
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("splits.mat", None, "splits.mat does not exist: give its place by --splits"),
        ("classMapping40.mat", None, "give its place by --mapping"),
        ("classMapping40.mat", {"mapClass": np.array([[41]])}, "maps to class 41"),
        ("splits.mat", {"trainNdxs": [1], "testNdxs": [9]}, "names image 9"),
        ("splits.mat", {"other": [1]}, "is not the official split"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capsys, name, content, words):
    folder, *_ = source
    (folder / name).unlink()
    if content:
        io.savemat(folder / name, content)
    assert run(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out/nyu_v2_3task.json").exists()


def test_incomplete_download(source, tmp_path, capsys):
    folder, *_ = source
    (folder / "nyu_depth_v2_labeled.mat").write_bytes(b"not HDF5")
    assert run(folder, tmp_path / "out") == 2
    assert "is no HDF5 file" in capsys.readouterr().err
