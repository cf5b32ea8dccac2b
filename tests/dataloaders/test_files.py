"""Single files: every kind of damage is a ValueError, never another exception."""

import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dataloaders.files import (
    map_grid,
    map_image,
    open_npy,
    read_channels,
    read_colour,
    read_grey8,
    read_grey16,
)
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


@pytest.mark.parametrize("read", [read_colour, read_grey8, open_npy])
def test_pipes_sockets_and_devices_are_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", "/dev/zero"):
            with pytest.raises(ValueError, match="is a pipe, a socket or a device, not a file"):
                read(type(tmp_path)(path))


def huge_png(width, height):
    """A complete PNG by its header, of a few bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))


def test_huge_pictures_are_refused_before_memory_is_taken(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(huge_png(100_000, 100_000))
    with pytest.raises(ValueError, match="has 100000 x 100000 pixels, more than the 67108864 that are read"):
        read_grey8(path)
    with open(path, "wb") as file:  # 12 GB by its header, sparse on disk
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (20_000, 50_000, 3)}
        )
        file.truncate(file.tell() + 20_000 * 50_000 * 3 * 4)
    with pytest.raises(ValueError, match="has 50000 x 20000 pixels"):
        map_image(path)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_pictures_to_be_shown_turned_are_refused(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    Image.fromarray(small.numbers(0, 256, (8, 16, 3))).save(path, exif=exif)
    if orientation == 1:
        assert read_colour(path).shape == (8, 16, 3)
    else:
        with pytest.raises(ValueError, match="EXIF orientation"):
            read_colour(path)


def test_palettes_are_named_where_numbers_belong(tmp_path):
    picture = Image.fromarray(small.numbers(0, 4, (4, 5))).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    for read in (read_grey8, read_channels):
        with pytest.raises(ValueError, match="is a palette picture"):
            read(tmp_path / "a.png")
    assert read_colour(tmp_path / "a.png").shape == (4, 5, 3)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "TIFF"])
def test_numbers_are_read_from_png_alone(tmp_path, kind):
    """JPEG changes them, GIF counts colours."""
    path = tmp_path / "0.png"
    for pixels, read in (
        (small.numbers(0, 40), read_grey8),
        (small.numbers(0, 40, (8, 9, 3)), read_channels),
    ):
        Image.fromarray(pixels).save(path, kind)
        with pytest.raises(ValueError, match=f"is a {kind} picture where PNG, which keeps every number"):
            read(path)
        assert read_colour(path).shape == (*pixels.shape[:2], 3)


def test_an_array_of_nothing_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((0, 5), np.float32))
    with pytest.raises(ValueError, match="which holds nothing"):
        map_grid(tmp_path / "a.npy")
