"""Broken samples of NYUv2, one fault at a time: one sentence with file, record and what is wrong."""

import os
import pickle

import numpy as np
import pytest
import torch

from common.names import MEAN_BGR
from dataloaders.base import BrokenSample
from dataloaders.cache import main as cache
from dataloaders.check import main as check
from dataloaders.streams import training_batches
from dataloaders.transforms import Axis, Crop, whole
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
    ("seg/0.png", holding(np.zeros(small.SIZE, np.uint16)), "holds uint16 values where uint8 belongs"),
    ("seg/0.png", holding(np.zeros((*small.SIZE, 3), np.uint8)), "has 3 channel(s) a pixel where 1 belong"),
    ("seg/0.png", holding(np.zeros((5, 7), np.uint8)), "is 5 x 7 where the image is 12 x 16 (img/0.png)"),
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
    (
        "depth/0.npy",
        holding(np.full(small.SIZE, -2.5)),
        "holds -2.5 where depth in metres belongs, 0 or -1 (unknown) or above",
    ),
]


@pytest.mark.parametrize(("file", "fault", "reason"), FAULTS, ids=[f"{f[0]} {f[2]}" for f in FAULTS])
def test_faults(tmp_path, file, fault, reason):
    root = small.nyuv2(tmp_path, 1, "test")
    fault(root / file)
    with pytest.raises(BrokenSample) as error:
        small.opened(small.settings("nyuv2", root))[0]
    assert str(error.value) == f"{file} (record 0 of split 'test') {reason}"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_file_without_permission(tmp_path):
    root = small.nyuv2(tmp_path, 1, "test")
    (root / "img/0.png").chmod(0)
    with pytest.raises(BrokenSample, match=r"img/0.png .* cannot be read \(Permission denied\)"):
        small.opened(small.settings("nyuv2", root))[0]


def test_refusal_of_the_system_is_a_broken_sample(tmp_path):
    records = small.opened(small.settings("nyuv2", small.nyuv2(tmp_path, 1, "test")))

    def refuse(_plane, path):
        raise PermissionError(13, "Permission denied", str(path))

    object.__setattr__(records, "read", refuse)
    with pytest.raises(BrokenSample, match=r"img/0.png .* cannot be read \(Permission denied\)"):
        records[0]


def test_interruption_is_not_swallowed(tmp_path):
    records = small.opened(small.settings("nyuv2", small.nyuv2(tmp_path, 1, "test")))

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
    split = "train" if dataset == "nyuv2" else "test"
    data = small.settings(dataset, getattr(small, dataset)(tmp_path))
    records = small.opened(data, split)
    twin = pickle.loads(pickle.dumps(records))
    assert np.array_equal(twin[0].image, records[0].image)
    assert twin.geometry == records.geometry and len(twin) == len(records)


class TestPadding:
    """A picture of 2 x 2 in a crop of 4: what lies beside it, and what is inside."""

    def item(self, root, dataset, protocol, **changes):
        getattr(small, dataset)(root, 1)
        path = root / {"nyuv2": "img/0.png", "taskonomy": "rgb/taskonomy/hall/0.png"}[dataset]
        small.save(path, np.full((*small.SIZE, 3), (10, 20, 30), np.uint8))
        data = small.settings(dataset, root, tasks=("sn",), val_fraction=0, **changes)
        split = "train" if dataset == "nyuv2" else "test"
        records = small.opened(data, split, protocol)
        rows, cols = Axis(12, 2, -1, 4), Axis(16, 2, -1, 4)
        return records.crop(0, records[0], Crop(1.0, False, rows, cols))

    @pytest.mark.parametrize("dataset", ["nyuv2", "taskonomy"])
    @pytest.mark.parametrize(
        ("protocol", "beside"),
        [("paper", (-104.00698793, -116.66876762, -122.67891434)), ("metric", (0.0, 0.0, 0.0))],
    )
    def test_beside_the_picture(self, tmp_path, dataset, protocol, beside):
        image, targets = self.item(tmp_path, dataset, protocol)
        inside = np.zeros((4, 4), bool)
        inside[1:3, 1:3] = True
        for channel, (outer, colour, mean) in enumerate(zip(beside, (10, 20, 30), MEAN_BGR, strict=True)):
            assert (image[channel].numpy()[~inside] == np.float32(outer)).all()
            assert image[channel].numpy()[inside] == pytest.approx(colour - mean, abs=1e-4)
        assert (targets["sn"].valid[0].numpy() == inside).all()


@pytest.mark.parametrize(("protocol", "slope"), [("paper", [63.75, 191.25]), ("metric", [64, 191])])
def test_taskonomy_images_are_scaled_as_floats_in_the_paper_protocol(tmp_path, protocol, slope):
    root = small.taskonomy(tmp_path)
    picture = np.zeros((1, 4, 3), np.uint8)
    picture[:, 2:] = 255
    small.save(root / "rgb/taskonomy/hall/0.png", picture)
    small.save(root / "edge_texture/taskonomy/hall/0.png", np.zeros((1, 4), np.uint16))
    data = small.settings("taskonomy", root, tasks=("edge",))
    records = small.opened(data, protocol=protocol)
    crop = Crop(2.0, False, Axis(1, 1, 0, 1), Axis(4, 8, 0, 8))
    image = records.crop(0, records[0], crop)[0][0, 0].numpy() + np.float32(MEAN_BGR[0])
    assert image == pytest.approx([0, 0, 0, *slope, 255, 255, 255], abs=1e-3)


class TestHalfLabelled:
    """Records of two images: the first has no normals, the second no labels and no depth."""

    @pytest.fixture
    def root(self, tmp_path):
        small.nyuv2(tmp_path, 2)
        one, other = ([f"img/{k}.png", f"seg/{k}.png", f"normal/{k}.png", f"depth/{k}.npy"] for k in range(2))
        one[2] = other[1] = other[3] = None
        small.write_index(tmp_path, "nyuv2", {"train": [one, other]})
        return tmp_path

    def test_a_missing_target_has_no_valid_pixel(self, root):
        data = small.settings("nyuv2", root, val_fraction=0, batch_size=4, scale=(1.0, 1.0))
        records = small.opened(data, "train")
        for place, known in ((0, {"seg", "depth"}), (1, {"sn"})):
            _, targets = records.crop(place, records[place], whole(small.SIZE))
            assert {name for name, target in targets.items() if target.valid.any()} == known
        (image, targets), *_ = training_batches(records, data, seed=0, start=0, stop=1)
        assert image.shape == (4, 3, 8, 8)
        kinds = {name: (tuple(t.value.shape), t.value.dtype) for name, t in targets.items()}
        assert kinds == {
            "seg": ((4, 1, 8, 8), torch.int64),
            "sn": ((4, 3, 8, 8), torch.float32),
            "depth": ((4, 1, 8, 8), torch.float32),
        }

    def test_they_are_checked_and_cached(self, root, capsys):
        assert check(["nyuv2", str(root), "--workers", "1"]) == 0
        assert "no file is broken" in capsys.readouterr().out
        assert cache(["nyuv2", str(root), str(root / "cache"), "--workers", "1"]) == 0

    def test_a_task_without_any_target_is_refused(self, root):
        small.write_index(root, "nyuv2", {"train": [["img/0.png", "seg/0.png", None, "depth/0.npy"]]})
        with pytest.raises(ValueError, match="no record of split 'train' has a target for task 'sn'"):
            small.opened(small.settings("nyuv2", root, val_fraction=0), "train")

    def test_a_picture_without_any_label_is_one(self, root):
        small.save(root / "seg/0.png", np.full(small.SIZE, 255, np.uint8))
        records = small.opened(small.settings("nyuv2", root, val_fraction=0), "train")
        _, targets = records.crop(0, records[0], whole(small.SIZE))
        assert not targets["seg"].valid.any()


def test_labels_from_one_on_are_named(tmp_path):
    root = small.nyuv2(tmp_path, 1, "test")
    small.save(root / "seg/0.png", np.full(small.SIZE, 40, np.uint8))
    with pytest.raises(BrokenSample, match=r"if its classes are 1..40 and 0 is void, subtract 1"):
        small.opened(small.settings("nyuv2", root))[0]


def test_depth_in_millimetres_is_warned_of(tmp_path):
    root = small.nyuv2(tmp_path, 1, "test")
    np.save(root / "depth/0.npy", np.full(small.SIZE, 2500, np.float32))
    with pytest.warns(UserWarning, match="depth reaches 2500 where metres belong"):
        small.opened(small.settings("nyuv2", root))[0]


def test_names_that_a_terminal_would_act_on_are_written_out(tmp_path):
    root = small.nyuv2(tmp_path, 1, "test")
    name = "img/\x1b[2K\nerror: forged.png"
    small.write_index(root, "nyuv2", {"test": [[name, "seg/0.png", "normal/0.png", "depth/0.npy"]]})
    with pytest.raises(ValueError, match="control characters") as error:
        small.opened(small.settings("nyuv2", root))
    sentence = (
        "record 0 of split 'test': path 'img/\\x1b[2K\\nerror: forged.png' has control characters in it"
    )
    assert str(error.value) == sentence
