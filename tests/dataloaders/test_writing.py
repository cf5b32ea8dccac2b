"""Files appear whole or not at all; folders of others are left alone."""

import json
import os

import numpy as np
import pytest

from common.lock import Held
from dataloaders.writing import claimed, present, run_all, write_bytes, write_npy


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_npy_round_trip(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_npy(tmp_path / "deep" / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "deep" / "a.npy"), array)
    assert present(tmp_path / "deep" / "a.npy") and not present(tmp_path / "b.npy")


def claim(*arguments, **more):
    with claimed(*arguments, **more):
        pass


def test_a_folder_is_claimed(tmp_path):
    folder = tmp_path / "new"
    claim(folder, "made.json", {"seed": 1})
    claim(folder, "made.json", {"seed": 1})
    with pytest.raises(ValueError, match="other settings"):
        claim(folder, "made.json", {"seed": 2})
    claim(folder, "made.json", {"seed": 2}, overwrite=True)
    claim(folder, "made.json", {"seed": 2})
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file cannot be a folder: .*file is a file"):
        claim(tmp_path / "file", "made.json", {})


def test_of_two_that_fill_a_folder_the_second_is_told(tmp_path):
    folder, settings = tmp_path / "new", {"seed": 1}
    with claimed(folder, "made.json", settings):
        words = f"new/made.json is in use by process {os.getpid()} on .* or choose another folder$"
        for overwrite in (False, True):
            with pytest.raises(Held, match=words):
                claim(folder, "made.json", settings, overwrite)
    assert [path.name for path in folder.iterdir()] == ["made.json"]
    with pytest.raises(Held), claimed(tmp_path / "other", "made.json", settings):
        claim(tmp_path / "other", "made.json", {"seed": 2}, overwrite=True)
    assert json.loads((tmp_path / "other/made.json").read_text()) == settings


def test_run_all_keeps_order_and_raises_the_error():
    assert run_all(abs, [-3, 2, -1], 2, "abs") == [3, 2, 1]
    with pytest.raises(TypeError):
        run_all(abs, [1, "a", 2], 2, "abs")


def test_a_lost_worker_is_told_in_one_sentence():
    words = "^a worker process was ended, as happens when memory runs out: use fewer .--workers.*again$"
    with pytest.raises(OSError, match=words):
        run_all(os._exit, [1, 1], 2, "exit")
