"""NYUv2 from small files in the official formats."""

import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from scipy import io

from dataloaders.prepare.__main__ import main
from dataloaders.prepare.nyuv2 import read_mapping, read_mapping13, read_splits

HEIGHT, WIDTH = 24, 32
META = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "nyuv2_meta"


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
    assert not (tmp_path / "out").exists()
    cv2.imwrite(str(tmp_path / "normals/0002.png"), given)
    assert run(folder, tmp_path / "out", "--normals", str(tmp_path / "normals")) == 0
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out/normal_mask/0002.png")), given)


def test_given_normals_of_another_size_cost_their_record(source, tmp_path, capsys):
    folder, *_ = source
    (tmp_path / "normals").mkdir()
    for number, height in ((1, HEIGHT), (2, HEIGHT), (3, HEIGHT // 2)):
        cv2.imwrite(str(tmp_path / f"normals/{number:04d}.png"), np.full((height, WIDTH, 3), 9, np.uint8))
    assert run(folder, tmp_path / "out", "--normals", str(tmp_path / "normals")) == 1
    said = f"image 3 of {folder}/nyu_depth_v2_labeled.mat and its targets differ in size: 24 x 32 and 12 x 32"
    assert f"1 records are left out:\n  {said}\n" in capsys.readouterr().out
    index = json.loads((tmp_path / "out/nyu_v2_3task.json").read_text())
    assert [record[0] for record in index["train"]] == ["img/0001.png"]
    assert not list((tmp_path / "out").rglob("0003.*"))


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
        ("splits.mat", None, "splits.mat does not exist as a file: give its place by --splits"),
        ("classMapping40.mat", None, "give its place by --mapping"),
        ("classMapping40.mat", {"mapClass": np.full((1, 894), 41)}, "maps to class 41"),
        ("splits.mat", {"trainNdxs": [1], "testNdxs": [9]}, "names image 9"),
        ("splits.mat", {"other": [1]}, "is not the official split"),
        ("splits.mat", {"trainNdxs": [0, 1], "testNdxs": [2]}, "names image 0, but images count from 1"),
        ("splits.mat", {"trainNdxs": [1], "testNdxs": [-2]}, "names image -2, but images count from 1"),
        ("splits.mat", {"trainNdxs": [1, 2], "testNdxs": [2]}, "image 2 for training and for testing"),
        ("splits.mat", {"trainNdxs": [1, 1], "testNdxs": [2]}, "names an image twice in trainNdxs"),
        ("splits.mat", {"trainNdxs": [1.5], "testNdxs": [2]}, "trainNdxs is not a list of whole numbers"),
        ("splits.mat", {"trainNdxs": "one", "testNdxs": [2]}, "trainNdxs is not a list of whole numbers"),
        ("splits.mat", {"trainNdxs": [], "testNdxs": [2]}, "trainNdxs is not a list of whole numbers"),
        ("splits.mat", b"no MATLAB", "splits.mat is not a MATLAB file that can be read"),
        ("splits.mat", b"", "splits.mat is not a MATLAB file that can be read"),
        ("classMapping40.mat", {"mapClass": np.ones((1, 20))}, "maps 20 classes"),
    ],
)
def test_mistakes_are_one_line(source, tmp_path, capsys, name, content, words):
    folder, *_ = source
    (folder / name).unlink()
    if isinstance(content, bytes):
        (folder / name).write_bytes(content)
    elif content:
        io.savemat(folder / name, content)
    assert run(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()  # nothing is claimed before the inputs are checked


def test_incomplete_download(source, tmp_path, capsys):
    folder, *_ = source
    (folder / "nyu_depth_v2_labeled.mat").write_bytes(b"not HDF5")
    assert run(folder, tmp_path / "out") == 2
    assert "is not an HDF5 file that can be read" in capsys.readouterr().err


def external_link(file, name, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other[name] = file[name][()]
    del file[name]
    file[name] = h5py.ExternalLink(str(folder / "other.h5"), name)


def soft_link(file, name, _folder):
    file["elsewhere"] = file[name]
    del file[name]
    file[name] = h5py.SoftLink("/elsewhere")


def group(file, name, _folder):
    del file[name]
    file.create_group(name)


def text(file, name, _folder):
    del file[name]
    file[name] = "no numbers"


def other_shape(file, name, _folder):
    content = file[name][()]
    del file[name]
    file[name] = content[..., :-1]


def gone(file, name, _folder):
    del file[name]


@pytest.mark.parametrize("name", ["images", "depths", "labels"])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (external_link, "is a link to somewhere else"),
        (soft_link, "is a link to somewhere else"),
        (group, "is a group, not an array"),
        (text, "not what the labelled set holds"),
        (other_shape, "beside images"),
        (gone, "it is not the labelled set"),
    ],
)
def test_the_labelled_set_is_not_trusted(source, tmp_path, capsys, fault, words, name):
    folder, *_ = source
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "a") as file:
        fault(file, name, folder)
    assert run(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_values_in_other_files_are_refused(source, tmp_path, capsys):
    folder, images, depths, _ = source
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["depths"]
        outside = [(str(folder / "outside"), 0, depths.nbytes)]
        file.create_dataset("depths", (3, WIDTH, HEIGHT), np.float32, external=outside)
    assert run(folder, tmp_path / "out") == 2
    assert "takes its values from other files" in capsys.readouterr().err


def mapping13(path):
    """Class k of the 40 becomes k % 13 + 1, the last one none."""
    numbers = np.arange(40) % 13 + 1
    numbers[39] = 0
    io.savemat(path, {"classMapping13": {"labels13": numbers.astype(np.uint8)}})


def test_thirteen_classes(source, tmp_path):
    folder, _, _, labels = source
    mapping13(folder / "class13Mapping.mat")
    assert run(folder, tmp_path / "out", "--classes", "13") == 0
    seg = cv2.imread(str(tmp_path / "out/seg/0001.png"), cv2.IMREAD_UNCHANGED)
    original = labels[0].astype(int)
    mapped = np.where(original == 0, 0, (original - 1) % 41)
    expected = np.where((mapped == 0) | (mapped == 40), 255, (mapped - 1) % 13)
    np.testing.assert_array_equal(seg, expected)
    assert run(folder, tmp_path / "out") == 2  # the folder holds another set of classes


@pytest.mark.skipif(not META.is_dir(), reason="the official companion files are not here")
def test_the_official_companion_files():
    splits = read_splits(META / "splits.mat")
    assert {split: len(numbers) for split, numbers in splits.items()} == {"train": 795, "test": 654}
    to40, to13 = read_mapping(META / "classMapping40.mat"), read_mapping13(META / "class13Mapping.mat")
    assert to40.shape == (895,) and to40[0] == 255 and set(to40[1:]) == set(range(40))
    # wall, floor, cabinet, bed, chair, sofa, table ... in 0 bed, 1 books, 2 ceiling, 3 chair, 4 floor, ...
    assert to13[:7].tolist() == [11, 4, 5, 0, 3, 8, 9]
    assert set(to13[:40]) == set(range(13)) and (to13[40:] == 255).all()
