"""The index file: splits, the held-out validation split, and paths."""

import warnings

import pytest

from dataloaders.index import entries, read_index

TEN = [[f"{k}.png"] for k in range(10)]


def places(index, split, fraction=0.05):
    return [entry.number for entry in entries(index, split, 1, fraction)]


def test_val_of_the_index_is_used_as_it_is():
    index = {"train": TEN[3:], "val": TEN[:3]}
    assert places(index, "val") == [0, 1, 2]
    assert places(index, "train") == list(range(7))


@pytest.mark.parametrize(("fraction", "held"), [(0.05, 1), (0.3, 3), (0.99, 9)])
def test_val_is_else_cut_from_train(fraction, held):
    index = {"train": TEN, "test": [[f"t{k}.png"] for k in range(10)]}
    val, train = places(index, "val", fraction), places(index, "train", fraction)
    assert len(val) == held
    assert sorted(val + train) == list(range(10))
    assert places(index, "val", fraction) == val
    assert places(index, "test", fraction) == list(range(10))


def test_the_same_images_are_held_out_in_every_version():
    index = {"train": [[f"{k}.png"] for k in range(100)]}
    assert places(index, "val") == [18, 21, 33, 58, 86]
    assert places({"train": TEN}, "val", 0.3) == [0, 2, 9]


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("spelled", ["{}", "./{}", " {} ", "{root}/{}"])
def test_copies_of_an_image_are_held_out_together(spelled, fraction, tmp_path):
    """As many images as of an index without the copies, and the same ones."""
    again = [[spelled.format(file, root=tmp_path)] for (file,) in reversed(TEN)]
    index = {"train": [*TEN, *again, *TEN]}
    split = {name: entries(index, name, 1, fraction, tmp_path) for name in ("train", "val")}
    assert sorted(entry.number for part in split.values() for entry in part) == list(range(30))
    images = {name: {entry.number % 20 for entry in part} for name, part in split.items()}
    images = {name: {min(of, 19 - of) for of in found} for name, found in images.items()}
    assert images["val"] == set(places({"train": TEN}, "val", fraction))
    assert images["train"] == set(places({"train": TEN}, "train", fraction))


def test_of_copies_of_one_image_none_is_held_out():
    assert places({"train": [["a.png"], ["./a.png"]]}, "train") == [0, 1]
    with pytest.raises(ValueError, match="run.select_on=test"):
        places({"train": [["a.png"], ["./a.png"]]}, "val")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_image_is_known_by_its_absolute_path_too(split, tmp_path):
    index = {"train": TEN, "test": [["new.png"], [f"{tmp_path}/3.png"]]}
    with pytest.raises(ValueError, match="^image '3.png' stands in split 'train' and in split 'test' of"):
        entries(index, split, 1, 0, tmp_path)


def test_nothing_is_held_out_at_fraction_0_or_of_a_single_record():
    assert places({"train": TEN}, "train", 0) == list(range(10))
    assert places({"train": TEN[:1]}, "train") == [0]
    for index, fraction in (({"train": TEN}, 0), ({"train": TEN[:1]}, 0.05)):
        with pytest.raises(ValueError, match="run.select_on=test"):
            places(index, "val", fraction)


@pytest.mark.parametrize(
    ("index", "split", "sentence"),
    [
        (
            {"train": TEN, "train1": TEN},
            "trian",
            "split 'trian' is not one of train, train1, val; did you mean 'train'?",
        ),
        ({}, "train", "split 'train' is not one of (none: the index is empty)"),
        ({"train": []}, "train", "split 'train' of the index holds no record"),
        ({"test": TEN}, "val", "split 'val' is not one of test"),
        ({"test": [["a", "b"]]}, "test", "record 0 of split 'test' has 2 files where 1 belong"),
        ({"test": [["a.png"], "b.png"]}, "test", "record 1 of split 'test' is not a list of file names"),
        ({"test": [[3]]}, "test", "record 0 of split 'test' is not a list of file names"),
        (
            {"test": [["/etc/a"]]},
            "test",
            "record 0 of split 'test': path '/etc/a' leads out of the data folder",
        ),
        ({"test": [["a/../../b"]]}, "test", "path 'a/../../b' leads out of the data folder"),
        ({"test": [[""]]}, "test", "path '' leads out of the data folder"),
    ],
)
def test_wrong_index_raises_one_sentence(index, split, sentence):
    with pytest.raises(ValueError) as error:
        entries(index, split, 1, 0.05)
    assert str(error.value).endswith(sentence) and "\n" not in str(error.value)


@pytest.mark.parametrize("fraction", [-0.1, 1])
def test_impossible_val_fraction(fraction):
    with pytest.raises(ValueError, match="data.val_fraction"):
        entries({"train": TEN}, "train", 1, fraction)


@pytest.mark.parametrize(
    ("text", "sentence"), [("", "is not a JSON file"), ("[1]", "must hold"), ('{"a": 1}', "must hold")]
)
def test_files_that_are_no_index(tmp_path, text, sentence):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_index(str(tmp_path), "index.json", "")


def test_index_as_windows_writes_it(tmp_path):
    text = '{"train": [["img\\\\0.png", " seg/0.png "]]}\r\n'
    (tmp_path / "index.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    index = read_index(str(tmp_path), "index.json", "")
    assert entries(index, "train", 2, 0)[0].files == ("img/0.png", "seg/0.png")


def test_absolute_paths_into_the_folder_are_read(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for root in (tmp_path, tmp_path / "link"):
        index = {"train": [[f"{root}/img/0.png"]]}
        assert entries(index, "train", 1, 0, root)[0].files == ("img/0.png",)
    with pytest.raises(ValueError, match="leads out of the data folder"):
        entries({"train": [[f"{tmp_path}/../b.png"]]}, "train", 1, 0, tmp_path)


def test_null_is_a_target_that_an_image_lacks():
    index = {"train": [["a.png", None], ["b.png", "b_seg.png"]]}
    assert [entry.files for entry in entries(index, "train", 2, 0)] == [
        ("a.png", None),
        ("b.png", "b_seg.png"),
    ]
    with pytest.raises(ValueError, match="record 0 of split 'train' has no image"):
        entries({"train": [[None, "a"]]}, "train", 2, 0)


@pytest.mark.parametrize("spelled", ["3.png", " 3.png", "./3.png", ".\\3.png"])
@pytest.mark.parametrize(("one", "other"), [("train", "test"), ("train1", "val"), ("test", "train")])
def test_an_image_that_is_learnt_from_and_scored_on_is_refused(one, other, spelled):
    index = {one: TEN, other: [[spelled], ["new.png"]]}
    learnt, scored = sorted((one, other), key=lambda split: not split.startswith("train"))
    sentence = f"image '3.png' stands in split '{learnt}' and in split '{scored}' of the index: "
    with pytest.raises(ValueError, match=f"^{sentence}.*--allow-overlap"):
        entries(index, one, 1, 0)
    with pytest.warns(UserWarning, match=sentence):
        assert len(entries(index, one, 1, 0, allow_overlap=True)) == len(index[one])


def test_images_in_several_splits_are_counted():
    with pytest.raises(
        ValueError, match="image '0.png' and 9 more stand in split 'train' and in split 'val'"
    ):
        entries({"test": [["a.png"]], "val": TEN, "train": TEN}, "test", 1, 0)


@pytest.mark.parametrize(("one", "other", "warned"), [("val", "test", True), ("train", "train1", False)])
def test_an_image_that_chooses_and_is_scored_on_is_said(one, other, warned):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(entries({one: TEN, other: [["3.png"]]}, one, 1, 0)) == 10
    sentence = f"image '3.png' stands in split '{one}' and in split '{other}' of the index"
    assert [str(warning.message).startswith(sentence) for warning in told] == [True] * warned


def test_an_index_nested_too_deeply(tmp_path):
    (tmp_path / "index.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"index.json is not a JSON file.*"):
        read_index(str(tmp_path), "index.json", "")


def test_where_else_the_index_may_be(tmp_path):
    def missing():
        with pytest.raises(FileNotFoundError) as error:
            read_index(str(tmp_path), "index.json", "get it")
        return str(error.value)

    assert missing() == f"{tmp_path}/index.json, the index of the data set, does not exist: get it"
    (tmp_path / "data.zip").write_bytes(b"")
    (tmp_path / "._data.tar").write_bytes(b"")
    assert "does not exist, but data.zip does: unpack it: get it" in missing()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper/index.json").write_text("{}")
    assert f"but {tmp_path}/deeper/index.json does: give {tmp_path}/deeper" in missing()
    (tmp_path / "Index.JSON").write_text("{}")
    assert f"but {tmp_path}/Index.JSON does: rename it" in missing()
