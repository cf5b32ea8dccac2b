"""The check names what is broken, and its exit status tells."""

import json

import cv2
import numpy as np
import pytest

from configs.schema import Data
from dataloaders import DATASETS
from dataloaders.base import BrokenSample
from dataloaders.check import main, panel
from dataloaders.class_names import class_names
from dataloaders.findings import quick_check
from dataloaders.synthetic import write
from tests.dataloaders import small

SIZE = (48, 64)


@pytest.fixture
def nyu(tmp_path):
    write(tmp_path / "set", "nyuv2", 4, size=SIZE)  # two for training
    return tmp_path / "set"


def run(root, *options, dataset="nyuv2"):
    return main([dataset, str(root), "--workers", "1", *options])


@pytest.mark.parametrize("layout", ["nyuv2", "cityscapes", "taskonomy"])
def test_a_sound_set(tmp_path, capsys, layout):
    write(tmp_path / "set", layout, 3, size=SIZE)
    assert run(tmp_path / "set", "--png", str(tmp_path / "panel.png"), dataset=layout) == 0
    text = capsys.readouterr().out
    assert "no file is broken" in text and "48 x 64" in text
    assert (tmp_path / "panel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "said"), [("panel.txt", "does not end in .png"), ("set", "is a folder, not the name of a file")]
)
def test_a_panel_that_cannot_be_written_is_said_before_the_work(nyu, capsys, name, said):
    assert run(nyu, "--png", str(nyu.parent / name)) == 2
    told = capsys.readouterr()
    assert told.out == "" and said in told.err and told.err.count("\n") == 1


def test_the_panel_has_titles_and_a_legend_of_the_classes_in_it(nyu):
    for path in (nyu / "seg").iterdir():
        labels = np.full(SIZE, 255, np.uint8)
        labels[:12], labels[12:16] = 4, 17
        cv2.imwrite(str(path), labels)
    row, data = DATASETS["nyuv2"], Data(root=str(nyu), tasks=("seg", "depth"), classes=40)
    tasks = row.make_tasks(data.tasks, data, "metric")
    figure = panel(row.open(data, "train", tasks, "metric"), tasks, class_names("nyuv2", 40))
    assert [axes.get_title() for axes in figure.axes] == ["image", "seg", "depth", "", "", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chair", "pillow"]


@pytest.mark.parametrize(
    ("dataset", "classes", "names"),
    [("nyuv2", 40, {9: "bookshelf", 39: "other prop"}), ("nyuv2", 13, {12: "window"}),
     ("cityscapes", 19, {0: "road", 18: "bicycle"}), ("taskonomy", 17, {3: "class 3"})],
)  # fmt: skip
def test_classes_have_their_data_sets_names(dataset, classes, names):
    found = class_names(dataset, classes)
    assert len(found) == classes and {number: found[number] for number in names} == names


def test_class_shares_and_ranges_are_exact(nyu, capsys):
    for path in (nyu / "seg").iterdir():
        labels = np.full(SIZE, 255, np.uint8)
        labels[:12], labels[12:16] = 4, 7
        cv2.imwrite(str(path), labels)
    for path in (nyu / "depth").iterdir():
        np.save(path, np.full(SIZE, 1.5, np.float32))
    assert run(nyu) == 0
    text = capsys.readouterr().out.split("\n")
    assert next(line for line in text if line.startswith("  seg")).split() == ["seg", "33.3%", "4", "7"]
    assert next(line for line in text if line.startswith("  depth")).split() == [
        "depth",
        "100.0%",
        "1.5",
        "1.5",
        "1.5",
    ]
    assert "   4 75.00%    7 25.00%" in "\n".join(text)


def damage(root, kind):
    """Break one file of the first training record; returns the words that must be said."""
    seg, depth, normal = root / "seg/0000.png", root / "depth/0000.npy", root / "normal_mask/0000.png"
    if kind == "missing":
        normal.unlink()
        return "normal_mask/0000.png (record 0 of split 'train') is missing"
    if kind == "truncated":
        normal.write_bytes(normal.read_bytes()[:300])
        return "normal_mask/0000.png (record 0 of split 'train') is no complete picture"
    if kind == "shape":
        cv2.imwrite(str(seg), np.zeros((20, 64), np.uint8))
        return "seg/0000.png (record 0 of split 'train') is 20 x 64 where the image is 48 x 64"
    if kind == "label":
        cv2.imwrite(str(seg), np.full(SIZE, 200, np.uint8))
        return "holds label 200"
    if kind == "nan":
        np.save(depth, np.full(SIZE, np.nan, np.float32))
        return "holds NaN"
    np.save(depth, np.zeros(SIZE, np.int32))
    return "depth/0000.npy (record 0 of split 'train') holds int32 values"


KINDS = ["missing", "truncated", "shape", "label", "nan", "dtype"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named(nyu, capsys, kind):
    words = damage(nyu, kind)
    assert run(nyu) == 1
    text = capsys.readouterr().out
    assert words in text and "1 broken files:" in text


def test_every_broken_file_of_a_record_is_named(nyu, capsys):
    words = [damage(nyu, kind) for kind in ("missing", "label", "nan")]
    assert run(nyu) == 1
    text = capsys.readouterr().out
    assert "3 broken files:" in text and all(word in text for word in words)
    assert run(nyu, "--tasks", "depth") == 1
    assert "1 broken files:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"train": []}, "holds no record"),
        ({"train": [["../a", "b", "c", "d"]]}, "leads out of the data folder"),
        ({"train": [["a"]]}, "has 1 files where 4 belong"),
        ("{", "is not a JSON file"),
    ],
)
def test_bad_index_is_one_sentence(nyu, capsys, index, words):
    (nyu / "nyu_v2_3task.json").write_text(index if isinstance(index, str) else json.dumps(index))
    assert run(nyu) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def opened(root):
    data = Data(root=str(root), val_fraction=0)
    tasks = DATASETS["nyuv2"].make_tasks(("seg", "sn", "depth"), data, "metric")
    return [DATASETS["nyuv2"].open(data, split, tasks, "metric") for split in ("train", "val")]


@pytest.mark.parametrize("kind", KINDS)
def test_quick_check(nyu, kind):
    quick_check(*opened(nyu))
    words = damage(nyu, kind)
    with pytest.raises(BrokenSample) as caught:
        quick_check(*opened(nyu))
    assert words in str(caught.value)
    quick_check(*opened(nyu), allowed=1)


def test_quick_check_counts_samples_and_no_files(nyu):
    for file in ("img/0001.png", "seg/0001.png", "depth/0001.npy"):
        (nyu / file).unlink()
    with pytest.raises(BrokenSample, match=r"img/0001.png \(record 1 of split 'train'\) is missing$"):
        quick_check(*opened(nyu))
    quick_check(*opened(nyu), allowed=1)


def test_quick_check_finds_a_missing_file_anywhere(tmp_path):
    write(tmp_path / "set", "nyuv2", 9, size=(32, 32))  # six for training: 0, 3 and 5 are read
    (tmp_path / "set/depth/0001.npy").unlink()
    (tmp_path / "set/seg/0002.png").unlink()
    with pytest.raises(BrokenSample, match=r"depth/0001.npy .* is missing \(and 1 more\)"):
        quick_check(*opened(tmp_path / "set"))


def test_an_empty_split_val_is_taken_from_train(tmp_path, capsys):
    root = small.nyuv2(tmp_path, 4)
    index = json.loads((root / "nyu_v2_3task.json").read_text())
    lacking = {split: records for split, records in index.items() if split != "val"}
    said = []
    for one in (lacking, lacking | {"val": []}):
        small.write_index(root, "nyuv2", one)
        assert main(["nyuv2", str(root), "--workers", "1"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_an_image_in_two_splits_is_refused_and_can_be_allowed(tmp_path, capsys):
    root = small.nyuv2(tmp_path, 2)
    index = json.loads((root / "nyu_v2_3task.json").read_text())
    small.write_index(root, "nyuv2", index | {"test": index["train"]})
    assert main(["nyuv2", str(root), "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: image 'img/0.png' and 1 more stand in split 'train'")
        and said.count("\n") == 1
    )
    with pytest.warns(UserWarning, match="img/0.png"):
        assert main(["nyuv2", str(root), "--workers", "1", "--allow-overlap"]) == 0
