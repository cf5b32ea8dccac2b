"""Files appear whole or not at all; folders of others are left alone."""

import os

import numpy as np
import pytest

from dataloaders.writing import claim, present, run_all, write_bytes, write_npy


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


def test_claim(tmp_path):
    folder = tmp_path / "new"
    claim(folder, "made.json", {"seed": 1})
    claim(folder, "made.json", {"seed": 1})
    with pytest.raises(ValueError, match="other settings"):
        claim(folder, "made.json", {"seed": 2})
    claim(folder, "made.json", {"seed": 2}, overwrite=True)
    claim(folder, "made.json", {"seed": 2})
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not a folder"):
        claim(tmp_path / "file", "made.json", {})


def test_run_all_keeps_order_and_raises_the_error():
    assert run_all(abs, [-3, 2, -1], 2, "abs") == [3, 2, 1]
    with pytest.raises(TypeError):
        run_all(abs, [1, "a", 2], 2, "abs")
