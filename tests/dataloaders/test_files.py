"""Single files: every kind of damage is a ValueError, never another exception."""

import numpy as np
import pytest

from dataloaders.files import map_grid, open_npy, read_colour, read_grey16
from tests.dataloaders import small


def test_damaged_headers_of_npy_raise_value_errors(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((4, 5), np.float32))
    whole = path.read_bytes()
    raised = 0
    for place in range(128):
        for byte in (34, 40, 57):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                map_grid(path)
            except ValueError:
                raised += 1
    assert raised > 60


def test_every_cut_of_npy_and_png_is_noticed(tmp_path):
    array, picture = tmp_path / "a.npy", tmp_path / "a.png"
    np.save(array, np.ones((4, 5), np.float32))
    small.save(picture, small.numbers(0, 256, (4, 5, 3)))
    for path, read in ((array, open_npy), (picture, read_colour)):
        content = path.read_bytes()
        for length in range(0, len(content) - 12, 5):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match="is no complete"):
                read(path)


def test_sixteen_bits_are_read_whole(tmp_path):
    plane = small.numbers(0, 65536, dtype=np.uint16)
    small.save(tmp_path / "a.png", plane)
    assert np.array_equal(read_grey16(tmp_path / "a.png"), plane)


def test_trailing_axis_of_one_is_dropped_and_big_endian_is_read(tmp_path):
    plane = np.arange(6, dtype=">f8").reshape(2, 3, 1)
    np.save(tmp_path / "a.npy", plane)
    assert map_grid(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print]), allow_pickle=True)
    with pytest.raises(ValueError, match="is no complete npy array"):
        open_npy(tmp_path / "a.npy")
