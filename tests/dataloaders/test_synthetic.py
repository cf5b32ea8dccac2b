"""Synthetic data sets: deterministic, readable by the real loaders, never written over something else."""

import json

import cv2
import numpy as np
import pytest

from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.layouts import LAYOUTS, edges, keypoints
from dataloaders.streams import evaluation_batches
from dataloaders.synthetic import main, split_numbers, view, write

SIZE = (48, 64)


@pytest.fixture(scope="module", params=sorted(LAYOUTS))
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    return request.param, root, write(root, request.param, 4, seed=5, size=SIZE)


def test_split_numbers():
    assert {s: list(r) for s, r in split_numbers(10).items()} == {
        "train": [0, 1, 2, 3, 4, 5, 6],
        "val": [7],
        "test": [8, 9],
    }
    assert {s: len(r) for s, r in split_numbers(3).items()} == {"train": 1, "val": 1, "test": 1}
    assert {s: len(r) for s, r in split_numbers(2).items()} == {"train": 1, "test": 1}
    with pytest.raises(ValueError, match="--images 0"):
        split_numbers(0)


def test_index_names_existing_files(made):
    layout, root, splits = made
    assert json.loads((root / LAYOUTS[layout].index_file).read_text()) == splits
    assert {s: len(r) for s, r in splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert not list(root.rglob("*.part"))


def test_the_real_loaders_read_it(made):
    layout, root, _ = made
    data = Data(
        dataset=layout, root=str(root), classes={"nyuv2": 40, "cityscapes": 19, "taskonomy": 17}[layout]
    )
    tasks = DATASETS[layout].make_tasks(DATASETS[layout].task_names, data, "metric")
    records = DATASETS[layout].open(data, "train", tasks, "metric")
    image, targets = next(iter(evaluation_batches(records, data)))
    assert image.shape == (1, 3, *SIZE)
    assert list(targets) == list(DATASETS[layout].task_names)
    for name, target in targets.items():
        assert 0.3 < target.valid.float().mean() <= 1, name
    if "sn" in targets:
        value, valid = targets["sn"]
        length = (value**2).sum(1, keepdim=True).sqrt()[valid]
        assert length.min() > 0.97 and length.max() < 1.03


def test_nyuv2_encoding(tmp_path):
    splits = write(tmp_path, "nyuv2", 1, seed=2, size=SIZE)
    seen = view(2, 0, SIZE)
    image, seg, normal, depth = (tmp_path / path for path in splits["train"][0])
    np.testing.assert_array_equal(cv2.imread(str(image))[..., ::-1], seen.image)
    np.testing.assert_array_equal(np.load(depth), seen.depth)
    stored = cv2.imread(str(normal))[..., ::-1]
    valid = (stored != 255).all(-1)
    assert 0.5 < valid.mean() < 1
    right, up, forward = seen.normal
    expected = np.stack([right, forward, up], -1)[valid]
    np.testing.assert_allclose(stored[valid] / 255 * 2 - 1, expected, atol=2.1 / 255)
    labels = cv2.imread(str(seg), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(labels)) <= {*range(40), 255}
    assert 0.02 < (labels == 255).mean() < 0.5


def test_an_image_depends_on_seed_and_number_only(tmp_path):
    write(tmp_path / "a", "nyuv2", 3, seed=1, size=SIZE)
    write(tmp_path / "b", "nyuv2", 5, seed=1, size=SIZE, workers=2)
    write(tmp_path / "c", "nyuv2", 3, seed=2, size=SIZE)
    for name in ("img/0001.png", "seg/0002.png", "normal_mask/0000.png", "depth/0002.npy"):
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert content != (tmp_path / "c" / name).read_bytes()


def test_taskonomy_buildings_keep_to_one_split(tmp_path):
    splits = write(tmp_path, "taskonomy", 12, size=(32, 32))
    buildings = {split: {record[0].split("/")[0] for record in splits[split]} for split in splits}
    assert buildings["train"] == {"train000", "train001"}  # nine images
    assert not buildings["train"] & (buildings["val"] | buildings["test"])
    assert np.load(tmp_path / "semseg_prior_factor.npy").shape == (17,)


def test_a_finished_set_is_kept_and_others_are_refused(tmp_path):
    write(tmp_path, "nyuv2", 1, size=SIZE)
    image = tmp_path / "img" / "0000.png"
    before = image.stat().st_mtime_ns
    write(tmp_path, "nyuv2", 1, size=SIZE)
    assert image.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="already holds files made with other settings"):
        write(tmp_path, "nyuv2", 2, size=SIZE)
    write(tmp_path, "nyuv2", 2, size=SIZE, overwrite=True)
    assert (tmp_path / "img" / "0001.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layout", "nyuv2", "--images", "0"], "--images 0"),
        (["--layout", "nyuv2", "--images", "2", "--size", "8x8"], "--size 8x8"),
        (["--layout", "nyuv2", "--images", "2", "--seed", "-1"], "--seed -1"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(tmp_path, capsys, arguments, words):
    assert main([str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_foreign_folder_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("important")
    assert main([str(tmp_path), "--layout", "nyuv2", "--images", "1", "--size", "48x64"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_edges_and_keypoints_of_a_square():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[12:28, 12:28] = 255
    edge, corner = edges(picture), keypoints(picture)
    assert edge[20, 12] > 0.05 * 2**16 and edge[20, 20] == 0
    assert corner[12, 12] > 10 * max(int(corner[20, 12]), 1)  # a straight edge is no keypoint
