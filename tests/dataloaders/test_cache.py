"""The cache changes nothing but speed: same batches, whatever is in it."""

import io
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from configs.schema import Data
from dataloaders import DATASETS, files, plane_cache
from dataloaders.base import BrokenSample
from dataloaders.cache import main
from dataloaders.plane_cache import Known, load, store
from dataloaders.streams import training_batches
from dataloaders.synthetic import write
from tests.dataloaders.small import nyuv2

SETTINGS = {
    "nyuv2": {"classes": 40, "tasks": ("seg", "sn", "depth")},
    "cityscapes": {"classes": 7, "tasks": ("seg", "depth")},
    "taskonomy": {"classes": 17, "size": 32, "tasks": ("seg", "sn", "depth", "keypoint", "edge")},
}


@pytest.fixture(scope="module", params=sorted(SETTINGS))
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    write(root, request.param, 3, size=(48, 64))
    return request.param, root


def settings(name, root, **more):
    return Data(dataset=name, root=str(root), crop=24, batch_size=2, num_workers=0, **SETTINGS[name], **more)


def opened(data):
    tasks = DATASETS[data.dataset].make_tasks(data.tasks, data, "metric")
    return DATASETS[data.dataset].open(data, "train", tasks, "metric")


def batches(data):
    return list(training_batches(opened(data), data, seed=1, start=0, stop=4))


def assert_equal(ours, theirs):
    for (image, targets), (other, others) in zip(ours, theirs, strict=True):
        assert torch.equal(image, other)
        for name, target in targets.items():
            assert torch.equal(target.value, others[name].value), name
            assert torch.equal(target.valid, others[name].valid), name


def test_batches_are_the_same_with_and_without(made, tmp_path):
    name, root = made
    plain = batches(settings(name, root))
    data = settings(name, root, cache=str(tmp_path))
    assert_equal(batches(data), plain)  # fills it
    entries = list(tmp_path.rglob("*.npy"))
    assert len(entries) == {"nyuv2": 3, "cityscapes": 0, "taskonomy": 6}[name]  # npy files are mapped
    before = [path.stat().st_mtime_ns for path in entries]
    assert_equal(batches(data), plain)
    assert [path.stat().st_mtime_ns for path in entries] == before


@pytest.fixture
def nyu(tmp_path):
    write(tmp_path / "set", "nyuv2", 1, size=(48, 64))
    data = Data(
        root=str(tmp_path / "set"), crop=24, cache=str(tmp_path / "cache"), tasks=("seg",), val_fraction=0
    )
    opened(data)[0]
    (image,) = (tmp_path / "cache").rglob("img/0000.png.full.npy")
    return data, tmp_path / "set", image


def damaged(entry, harm):
    content, end = entry.read_bytes(), plane_cache.SEAL.size
    if harm == "removed":
        return None
    if harm == "is another array":
        other = io.BytesIO()
        np.save(other, np.zeros((48, 64, 3), np.int8))
        return other.getvalue() + content[-end:]
    if harm == "is a pickle":
        other = io.BytesIO()
        np.save(other, np.array([{}]), allow_pickle=True)
        return other.getvalue() + content[-end:]
    return {
        "is cut": content[:-7],
        "is empty": b"",
        "is zeros": bytes(len(content)),
        "is longer": content + b"x",
    }[harm]


@pytest.mark.parametrize(
    "harm",
    ["is cut", "is empty", "is zeros", "is longer", "is another array", "is a pickle", "removed"],
)
def test_damaged_entries_are_made_again(nyu, harm):
    data, root, entry = nyu
    whole = entry.read_bytes()
    content = damaged(entry, harm)
    if content is None:
        entry.unlink()
    else:
        entry.write_bytes(content)
    np.testing.assert_array_equal(opened(data)[0].image, cv2.imread(str(root / "img/0000.png")))
    assert entry.read_bytes() == whole


@pytest.mark.parametrize(
    "forged",
    [
        np.zeros((48, 64, 3), np.float32),
        np.zeros(48, np.uint8),
        np.zeros((48, 64), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.full((48, 64, 3), "text"),
    ],
)
def test_an_entry_that_no_picture_gives_is_made_again_whatever_its_seal_says(nyu, forged):
    data, root, entry = nyu
    whole = entry.read_bytes()
    stat = (root / "img/0000.png").stat()
    store(entry, (stat.st_size, stat.st_mtime_ns), forged)
    np.testing.assert_array_equal(opened(data)[0].image, cv2.imread(str(root / "img/0000.png")))
    assert entry.read_bytes() == whole


def test_every_changed_byte_is_noticed(tmp_path):
    """Of the header, the pixels and the seal: an entry is what was stored, or none."""
    path, stored = tmp_path / "a.npy", np.arange(12, dtype=np.uint8).reshape(3, 4)
    store(path, (1, 2), stored)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        assert load(path, (1, 2)) is None, place
    path.write_bytes(whole)
    np.testing.assert_array_equal(load(path, (1, 2)), stored)
    np.testing.assert_array_equal(np.load(path), stored)  # a plain npy file


def test_an_entry_that_is_a_folder_costs_speed_only(nyu):
    data, root, entry = nyu
    entry.unlink()
    entry.mkdir()
    with pytest.warns(UserWarning, match="the cache cannot be used"):
        np.testing.assert_array_equal(opened(data)[0].image, cv2.imread(str(root / "img/0000.png")))


def test_stale_entries_are_made_again(nyu):
    data, root, _ = nyu
    records = opened(data)
    records[0]
    cv2.imwrite(str(root / "img/0000.png"), np.full((48, 64, 3), 9, np.uint8))
    assert (records[0].image == 9).all()
    assert (opened(data)[0].image == 9).all()


def test_broken_files_stay_errors(nyu):
    data, root, entry = nyu
    path = root / "img/0000.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BrokenSample, match=r"img/0000.png .* is no complete picture"):
        opened(data)[0]
    path.unlink()
    with pytest.raises(BrokenSample, match=r"img/0000.png .* is missing"):
        opened(data)[0]


def test_labels_are_checked_against_the_settings_of_this_run(nyu):
    data, *_ = nyu
    fewer = Data(**{**data.__dict__, "classes": 1})
    with pytest.raises(BrokenSample, match="neither below 1 nor 255"):
        opened(fewer)[0]


def test_a_full_disk_costs_speed_only(nyu, monkeypatch):
    data, root, entry = nyu
    entry.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plane_cache, "write_bytes", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        image = opened(data)[0].image
    np.testing.assert_array_equal(image, cv2.imread(str(root / "img/0000.png")))


def test_disk_need_is_told_before(nyu, tmp_path, capsys, monkeypatch):
    data, *_ = nyu
    empty = Data(**{**data.__dict__, "cache": str(tmp_path / "other")})
    records = opened(empty)
    header_and_seal = 128 + plane_cache.SEAL.size
    assert plane_cache.missing_bytes(records, records.read) == 48 * 64 * 4 + 2 * header_and_seal
    assert "GB more" in capsys.readouterr().err
    records = opened(data)
    assert plane_cache.missing_bytes(records, records.read) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(plane_cache, "free_bytes", lambda folder: 10)
    with pytest.raises(ValueError, match="choose another folder"):
        opened(empty)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_round_trip_of_an_entry(tmp_path, dtype, shape):
    stored = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    store(tmp_path / "a.npy", (1, 2), stored)
    found = load(tmp_path / "a.npy", (1, 2))
    again = Known(str(tmp_path / "a.npy"), (1, 2), 0, stored.dtype, shape, 128, True, True).open()
    for each in (found, again):
        np.testing.assert_array_equal(each, stored)
        assert each.dtype == dtype and not each.flags.writeable
    assert load(tmp_path / "a.npy", (1, 3)) is None


@pytest.mark.parametrize("length", [0, 3, 20, 140, 400, None])
def test_a_verified_entry_is_mapped_again_only_as_it_was(tmp_path, length):
    path = tmp_path / "a.npy"
    known = Known(str(path), (1, 2), 0, np.dtype(np.uint8), (3, 4), 128, True, True)
    store(path, (1, 2), np.zeros((3, 4), np.uint8))
    if length is None:  # of the next version of its source
        store(path, (5, 6), np.zeros((3, 4), np.uint8))
    else:
        os.truncate(path, length)
    assert known.open() is None


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (1, 5), (1, 1)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_that_need_no_entry_are_mapped_again_without_a_look_at_their_header(
    nyu, tmp_path, order, shape, dtype, monkeypatch
):
    plane = opened(nyu[0]).layout.planes["depth"]
    depth = np.asarray(np.arange(np.prod(shape)).reshape(shape), dtype, order=order)
    path, cache = tmp_path / "one.npy", plane_cache.Cache(tmp_path / "cache", tmp_path)
    np.save(path, depth)
    first = cache(plane, path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "open_npy", None)
        again = cache(plane, path)
    for found in (first, again):
        np.testing.assert_array_equal(found, depth.reshape(shape[:2]))
        assert not found.flags.writeable and found.dtype == depth.dtype
    np.save(path, np.zeros((5, 6), np.float32))
    assert cache(plane, path).shape == (5, 6)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no complete npy array"):
        cache(plane, path)


def test_an_array_that_takes_anothers_place_at_the_same_time_is_read_anew(nyu, tmp_path):
    plane = opened(nyu[0]).layout.planes["depth"]
    path, cache = tmp_path / "one.npy", plane_cache.Cache(tmp_path / "cache", tmp_path)
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(path, depth)
    cache(plane, path)
    stat = path.stat()
    np.save(path, np.asfortranarray(depth))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    np.testing.assert_array_equal(cache(plane, path), depth)


def test_a_file_that_two_planes_name_is_checked_by_each(nyu, tmp_path):
    planes = opened(nyu[0]).layout.planes
    path, cache = tmp_path / "one.npy", plane_cache.Cache(tmp_path / "cache", tmp_path)
    np.save(path, np.ones((3, 4), np.uint8))
    labels = replace(planes["depth"], column=9, read=files.open_npy)
    assert cache(labels, path).shape == (3, 4)
    for _ in range(2):
        with pytest.raises(ValueError, match="holds uint8 values where"):
            cache(planes["depth"], path)


def test_a_verified_entry_that_is_damaged_later_is_made_again(nyu):
    data, root, entry = nyu
    records, whole = opened(data), entry.read_bytes()
    expected = cv2.imread(str(root / "img/0000.png"))
    for harm in ("is cut", "is empty", "removed"):
        np.testing.assert_array_equal(records[0].image, expected)
        np.testing.assert_array_equal(records[0].image, expected)
        content = damaged(entry, harm)
        entry.unlink()
        if content is not None:
            entry.write_bytes(content)
    np.testing.assert_array_equal(records[0].image, expected)
    assert entry.read_bytes() == whole


def test_made_ahead_by_the_command(nyu, tmp_path, capsys):
    data, root, _ = nyu
    assert main(["nyuv2", str(root), str(tmp_path / "ahead"), "--workers", "1"]) == 0
    assert len(list((tmp_path / "ahead").rglob("*.npy"))) == 3
    (root / "seg/0000.png").unlink()
    assert main(["nyuv2", str(root), str(tmp_path / "ahead"), "--workers", "1"]) == 1
    assert "seg/0000.png (record 0 of split 'train') is missing" in capsys.readouterr().out
    assert main(["nyuv2", str(root / "none"), str(tmp_path / "ahead")]) == 2


def test_a_cache_that_cannot_be_a_folder_is_refused(tmp_path, capsys):
    root = nyuv2(tmp_path / "rooms")
    (tmp_path / "file").touch()
    for folder in ("file", "file/deep"):
        assert main(["nyuv2", str(root), str(tmp_path / folder), "--workers", "1"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: the cache ") and "file is a file" in said and said.count("\n") == 1
