"""Broken samples of NYUv2, one fault at a time: one sentence with file, record and what is wrong."""

import os
import pickle

import numpy as np
import pytest

from dataloaders.base import BrokenSample
from tests.dataloaders import small


def cut_short(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def holding(plane):
    return lambda path: small.save(path, plane)


FAULTS = [
    ("img/0.png", cut_short, "is no complete picture"),
    ("img/0.png", flip_a_byte, "is no complete picture"),
    ("img/0.png", lambda path: path.write_bytes(b""), "is no complete picture"),
    ("img/0.png", lambda path: path.write_text("no picture"), "is no complete picture"),
    ("img/0.png", lambda path: path.unlink(), "is missing"),
    ("img/0.png", lambda path: (path.unlink(), path.mkdir()), "cannot be read (Is a directory)"),
    ("seg/0.png", cut_short, "is no complete picture"),
    (
        "seg/0.png",
        holding(np.full(small.SIZE, 200, np.uint8)),
        "holds label 200, neither below 40 nor 255 (ignored)",
    ),
    ("seg/0.png", holding(np.full(small.SIZE, 255, np.uint8)), "holds no labelled pixel, only 255 (ignored)"),
    ("seg/0.png", holding(np.zeros(small.SIZE, np.uint16)), "holds uint16 values where uint8 belongs"),
    ("seg/0.png", holding(np.zeros((*small.SIZE, 3), np.uint8)), "has 3 channel(s) a pixel where 1 belong"),
    ("seg/0.png", holding(np.zeros((5, 7), np.uint8)), "is 5 x 7 where the image is 12 x 16"),
    ("normal/0.png", holding(np.zeros(small.SIZE, np.uint8)), "has 1 channel(s) a pixel where 3 belong"),
    ("depth/0.npy", cut_short, "is no complete npy array"),
    ("depth/0.npy", lambda path: path.write_bytes(b""), "is no complete npy array"),
    (
        "depth/0.npy",
        holding(np.full(small.SIZE, np.nan, np.float32)),
        "holds NaN where depth in metres belongs",
    ),
    (
        "depth/0.npy",
        holding(np.ones(small.SIZE, np.int16)),
        "holds int16 values where floating point belongs",
    ),
    ("depth/0.npy", holding(np.ones((*small.SIZE, 2))), "has shape [12, 16, 2] where [H, W] belongs"),
    ("depth/0.npy", holding(np.array([{}])), "is no complete npy array"),
]


@pytest.mark.parametrize(("file", "fault", "reason"), FAULTS, ids=[f"{f[0]} {f[2]}" for f in FAULTS])
def test_faults(tmp_path, file, fault, reason):
    root = small.nyuv2(tmp_path, 1)
    fault(root / file)
    with pytest.raises(BrokenSample) as error:
        small.opened(small.settings("nyuv2", root))[0]
    assert str(error.value) == f"{file} (record 0 of split 'test') {reason}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path):
    root = small.nyuv2(tmp_path, 1)
    (root / "img/0.png").chmod(0)
    with pytest.raises(BrokenSample, match=r"img/0.png .* cannot be read \(Permission denied\)"):
        small.opened(small.settings("nyuv2", root))[0]


def test_refusal_of_the_system_is_a_broken_sample(tmp_path):
    records = small.opened(small.settings("nyuv2", small.nyuv2(tmp_path, 1)))

    def refuse(_plane, path):
        raise PermissionError(13, "Permission denied", str(path))

    object.__setattr__(records, "read", refuse)
    with pytest.raises(BrokenSample, match=r"img/0.png .* cannot be read \(Permission denied\)"):
        records[0]


def test_interruption_is_not_swallowed(tmp_path):
    records = small.opened(small.settings("nyuv2", small.nyuv2(tmp_path, 1)))

    def interrupt(_plane, _path):
        raise KeyboardInterrupt

    object.__setattr__(records, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        records[0]


def test_records_are_named_by_their_place_in_the_index(tmp_path):
    root = small.nyuv2(tmp_path, 4)
    records = small.opened(small.settings("nyuv2", root), "val")
    number = records.entries[0].number
    (root / f"seg/{number}.png").unlink()
    with pytest.raises(
        BrokenSample, match=rf"^seg/{number}.png \(record {number} of split 'train'\) is missing$"
    ):
        records[0]


@pytest.mark.parametrize("dataset", ["nyuv2", "cityscapes", "taskonomy"])
def test_records_travel_to_workers_that_are_started_anew(tmp_path, dataset):
    records = small.opened(small.settings(dataset, getattr(small, dataset)(tmp_path)))
    twin = pickle.loads(pickle.dumps(records))
    assert np.array_equal(twin[0].image, records[0].image)
    assert twin.geometry == records.geometry and len(twin) == len(records)
