"""The npy layout of MTAN: values worked by hand, the axes of its normals, and what is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.prepare.__main__ import main
from dataloaders.prepare.normals import NYU_COLOUR
from dataloaders.transforms import whole

SIZE = (48, 64)
FACTOR = 0.1  # of NYUv2's 480 x 640
NORMALS = np.array([(0.6, 0, -0.8), (-0.48, 0.36, -0.8), (0, -0.6, -0.8)])  # right, up, into the scene
CONVENTIONS = {
    "right, up, into the scene": lambda right, up, forward: (right, up, forward),
    "right, minus up, into the scene": lambda right, up, forward: (right, -up, forward),
    "up, minus into the scene, minus right": lambda right, up, forward: (up, -forward, -right),
}


def scene():
    """Depth [H, W] and normals [3, H, W] of three slanted walls side by side."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    wall = columns * 3 // SIZE[1]
    normal = NORMALS[wall].transpose(2, 0, 1)
    x = (columns - NYU_COLOUR.cx * FACTOR) / (NYU_COLOUR.fx * FACTOR)
    y = -(rows - NYU_COLOUR.cy * FACTOR) / (NYU_COLOUR.fy * FACTOR)
    return -2 / (normal[0] * x + normal[1] * y + normal[2]), normal


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def nyuv2(folder: Path, stored=CONVENTIONS["right, up, into the scene"], count: int = 2) -> Path:
    depth, normal = scene()
    normal[:, :2] = 0  # unknown
    for split in ("train", "val"):
        for k in range(count):
            rng = np.random.default_rng(k)
            save(folder / split / f"image/{k}.npy", rng.integers(0, 256, (*SIZE, 3)) / 255)
            label = np.full(SIZE, 12.0)
            label[:, :4], label[:, 4:8] = -1, 3
            save(folder / split / f"label/{k}.npy", label)
            save(folder / split / f"depth/{k}.npy", depth[..., None].astype(np.float32))
            save(folder / split / f"normal/{k}.npy", np.stack(stored(*normal), -1).astype(np.float32))
        (folder / split / "image/.DS_Store").write_bytes(b"x")
        (folder / split / "image/Thumbs.db").write_bytes(b"x")
    return folder


def run(dataset, source, dest):
    return main([dataset, str(source), str(dest), "--workers", "1"])


@pytest.mark.parametrize("name", CONVENTIONS)
def test_nyuv2(tmp_path, capsys, name):
    dest = tmp_path / "out"
    assert run("nyuv2", nyuv2(tmp_path / "mtan", CONVENTIONS[name]), dest) == 0
    assert f"normals of SOURCE hold {name}" in capsys.readouterr().out
    index = json.loads((dest / "nyu_v2_3task.json").read_text())
    assert {split: len(records) for split, records in index.items()} == {"train": 2, "test": 2}
    image, seg, normal, depth = (dest / path for path in index["test"][1])
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE, 3))
    np.testing.assert_array_equal(cv2.imread(str(image))[..., ::-1], pixels)
    labels = cv2.imread(str(seg), cv2.IMREAD_UNCHANGED)
    assert (labels[:, :4] == 255).all() and (labels[:, 4:8] == 3).all() and (labels[:, 8:] == 12).all()
    metres, (right, up, forward) = scene()
    np.testing.assert_allclose(np.load(depth), metres, rtol=1e-6)
    stored = cv2.imread(str(normal))[..., ::-1].astype(float)
    assert (stored[:2] == 255).all()
    expected = (np.stack([right, forward, up], -1) + 1) / 2 * 255
    np.testing.assert_allclose(stored[2:], expected[2:], atol=0.51)


def test_the_loader_reads_thirteen_classes(tmp_path):
    assert run("nyuv2", nyuv2(tmp_path / "mtan"), tmp_path / "out") == 0
    data = Data(root=str(tmp_path / "out"), classes=13)
    tasks = DATASETS["nyuv2"].make_tasks(("seg", "sn", "depth"), data, "metric")
    records = DATASETS["nyuv2"].open(data, "test", tasks, "metric")
    _, targets = records.crop(0, records[0], whole(SIZE))
    assert targets["seg"].value.unique().tolist() == [0, 3, 12]
    assert targets["sn"].value[:, 10, 3].numpy() == pytest.approx(
        [0, -0.8, 0.6], abs=0.01
    )  # up, forward, right


def test_normals_that_fit_no_convention_are_refused(tmp_path, capsys):
    source = nyuv2(tmp_path / "mtan", lambda right, up, forward: (right * 0 + 1, up * 0, forward * 0))
    assert run("nyuv2", source, tmp_path / "out") == 2
    assert "agree with the depth under no order and sign of axes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_file_costs_its_record(tmp_path, capsys):
    source = nyuv2(tmp_path / "mtan", count=3)
    (source / "train/label/1.npy").write_bytes(b"\x93NUM")
    np.save(source / "val/label/0.npy", np.full(SIZE, 13))
    assert run("nyuv2", source, tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "2 records are left out:" in said and "train/label/1.npy is no complete npy array" in said
    assert "val/label/0.npy holds values from 13 to 13, not -1..12" in said
    index = json.loads((tmp_path / "out/nyu_v2_3task.json").read_text())
    assert [record[0] for record in index["train"]] == ["img/train_0000.png", "img/train_0002.png"]


def cityscapes(folder: Path, label_folder: str, highest: int, void: int = -1) -> Path:
    for split in ("train", "val"):
        label = np.array([[void, 0.0, highest, 5]])
        save(folder / split / "image/0.npy", np.full((1, 4, 3), 0.5))
        save(folder / split / f"{label_folder}/0.npy", label)
        save(folder / split / "depth/0.npy", np.array([[[-1.0], [0], [0.25], [0.5]]]))
    return folder


@pytest.mark.parametrize(
    ("folder", "highest", "finest", "coarse"),
    [
        ("label_19", 18, [-1, 0, 18, 5], [-1, 0, 1, 0]),
        ("label", 18, [-1, 0, 18, 5], [-1, 0, 1, 0]),
        ("label", 6, None, [-1, 0, 1, 1]),
        ("label_7", 6, None, [-1, 0, 1, 1]),
    ],
)
def test_cityscapes(tmp_path, folder, highest, finest, coarse):
    assert run("cityscapes", cityscapes(tmp_path / "mtan", folder, highest), tmp_path / "out") == 0
    index = json.loads((tmp_path / "out/cityscape.json").read_text())
    image, depth, label2, label7, label19 = index["test"][0]
    assert np.load(tmp_path / "out" / depth)[..., 0].tolist() == [[0, 0, 0.25, 0.5]]
    assert np.load(tmp_path / "out" / label2).tolist() == [coarse]
    assert (label19 is None) == (finest is None)
    if finest is not None:
        assert np.load(tmp_path / "out" / label19).tolist() == [finest]
    data = Data(dataset="cityscapes", root=str(tmp_path / "out"), classes=7)
    tasks = DATASETS["cityscapes"].make_tasks(("seg", "depth"), data, "metric")
    assert len(DATASETS["cityscapes"].open(data, "test", tasks, "metric")[0].planes) == 2
    if finest is None:
        with pytest.raises(ValueError, match="no record of split 'test' has a target for task 'seg'"):
            DATASETS["cityscapes"].open(Data(**{**data.__dict__, "classes": 19}), "test", tasks, "metric")


def test_a_label_out_of_range_costs_its_record_whatever_classes_are_told_by(tmp_path, capsys):
    source = cityscapes(tmp_path / "mtan", "label", 18)
    for part in ("image", "label", "depth"):
        save(source / f"train/{part}/1.npy", np.load(source / f"train/{part}/0.npy"))
    save(source / "train/label/1.npy", np.array([[40.0, 0, 0, 0]]))
    assert run("cityscapes", source, tmp_path / "out") == 1
    assert "train/label/1.npy holds values from 0 to 40, not -1..18" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out/cityscape.json").read_text())["train"]) == 1


def test_void_of_255_is_no_class_of_cityscapes(tmp_path, capsys):
    assert run("cityscapes", cityscapes(tmp_path / "mtan", "label", 6, void=255), tmp_path / "out") == 0
    assert "(label) are taken for 7 classes" in capsys.readouterr().out
    record = json.loads((tmp_path / "out/cityscape.json").read_text())["test"][0]
    assert record[4] is None and np.load(tmp_path / "out" / record[3]).tolist() == [[-1, 0, 6, 5]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--normals", "n"],
            "--normals n is for the official download, SOURCE is in MTAN's layout: leave it out",
        ),
        (["--splits", "s.mat"], "--splits s.mat is for the official download"),
        (["--mapping", "m.mat"], "--mapping m.mat is for the official download"),
        (["--mapping13", "m.mat"], "--mapping13 m.mat is for the official download"),
        (["--classes", "40"], "--classes 40: SOURCE is in MTAN's layout, which has 13 classes: leave it out"),
    ],
)
def test_options_of_the_official_download_are_refused(tmp_path, capsys, words, said):
    source = nyuv2(tmp_path / "mtan")
    assert main(["nyuv2", str(source), str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {said}") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_its_thirteen_classes_may_be_said(tmp_path):
    source = nyuv2(tmp_path / "mtan")
    assert run("nyuv2", source, tmp_path / "out") == 0
    words = ["--workers", "1", "--classes", "13"]
    assert main(["nyuv2", str(source), str(tmp_path / "out"), *words]) == 0  # the same as before
