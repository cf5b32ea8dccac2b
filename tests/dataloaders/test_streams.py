"""Streams: what batches depend on, how ranks and evaluation share them, and broken samples."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from dataloaders.base import BrokenSample
from dataloaders.items import TrainingItems
from dataloaders.streams import TrainingOrder, evaluation_batches, permutation, training_batches
from tests.dataloaders import small

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return small.nyuv2(tmp_path_factory.mktemp("nyuv2"), 5)


def train(root, start=0, stop=4, rank=0, world=1, seed=0, **changes):
    data = small.settings("nyuv2", root, val_fraction=0, **changes)
    return training_batches(
        small.opened(data, "train"), data, seed=seed, start=start, stop=stop, rank=rank, world=world
    )


def evaluate(root, rank=0, world=1, **changes):
    data = small.settings("nyuv2", root, val_fraction=0, **changes)
    return evaluation_batches(small.opened(data, "train"), data, rank=rank, world=world)


def tensors(batch):
    image, targets = batch
    return [image, *(part for target in targets.values() for part in target)]


def same(ones, others):
    ones, others = list(ones), list(others)
    return len(ones) == len(others) and all(
        a.equal(b)
        for one, other in zip(ones, others, strict=True)
        for a, b in zip(tensors(one), tensors(other), strict=True)
    )


def test_shapes_and_types(root):
    (image, targets), *_ = train(root)
    assert image.shape == (2, 3, 8, 8) and image.dtype == torch.float32
    assert list(targets) == ["seg", "sn", "depth"]
    for name, channels, dtype in (
        ("seg", 1, torch.int64),
        ("sn", 3, torch.float32),
        ("depth", 1, torch.float32),
    ):
        assert targets[name].value.shape == (2, channels, 8, 8) and targets[name].value.dtype == dtype
        assert targets[name].valid.shape == (2, 1, 8, 8) and targets[name].valid.dtype == torch.bool


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(root, workers):
    assert same(train(root), train(root, num_workers=workers))
    assert same(evaluate(root), evaluate(root, num_workers=workers))


def test_a_later_start_continues_the_stream(root):
    everything = list(train(root, 0, 7))
    assert same(everything[4:], train(root, 4, 7))
    assert same([], train(root, 7, 7))


def test_two_ranks_together_are_one_process(root):
    one = list(train(root, batch_size=4))
    two = [list(train(root, batch_size=4, rank=rank, world=2)) for rank in (0, 1)]
    for whole, *parts in zip(one, *two, strict=True):
        joined = (torch.cat(pair) for pair in zip(*map(tensors, parts), strict=True))
        assert all(a.equal(b) for a, b in zip(tensors(whole), joined, strict=True))


def test_seed_and_epoch_change_the_batches(root):
    assert not same(train(root), train(root, seed=1))
    fixed = {"scale": (1.0, 1.0), "hflip": 0.0, "crop": 12}
    first, second = (next(iter(train(root, k, k + 1, batch_size=5, **fixed)))[0] for k in (0, 1))
    assert not first.equal(second)


def test_the_global_random_stream_is_left_alone(root):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(train(root))
    list(evaluate(root))
    assert torch.get_rng_state().equal(before)


def test_every_epoch_holds_every_record_once():
    keys = [key for batch in TrainingOrder(5, 2, 0, range(10), 0, 1) for key in batch]
    assert sorted(keys) == [(epoch, place) for epoch in range(4) for place in range(5)]
    assert [place for epoch, place in keys if epoch == 0] == permutation(0, 0, 5)
    assert len({tuple(permutation(0, epoch, 5)) for epoch in range(9)}) > 1


def test_batches_larger_than_the_split(tmp_path):
    root = small.nyuv2(tmp_path, 1)
    assert [image.shape[0] for image, _ in train(root, batch_size=5, stop=2)] == [5, 5]


def test_the_image_and_its_targets_are_cut_alike(tmp_path):
    root = small.nyuv2(tmp_path, 1)
    label = small.numbers(0, 40)
    small.save(root / "img/0.png", np.repeat(label[..., None] * 6, 3, 2))
    small.save(root / "depth/0.npy", label.astype(np.float32) + 1)
    for image, targets in train(root, stop=20, scale=(1.0, 1.0)):
        for name, offset in (("seg", 0), ("depth", 1)):
            value = targets[name].value.float() - offset
            assert (image[:, :1] + 104.00698793).round().equal(value * 6)


def test_evaluation_deals_whole_batches(root):
    assert [len(image) for image, _ in evaluate(root, eval_batch_size=2)] == [2, 2, 1]
    everything = list(evaluate(root, eval_batch_size=2))
    assert same(everything[0::2], evaluate(root, rank=0, world=2, eval_batch_size=2))
    assert same(everything[1::2], evaluate(root, rank=1, world=2, eval_batch_size=2))
    assert len(evaluate(root, rank=3, world=4, eval_batch_size=2)) == 0


def test_images_of_unequal_size_in_one_batch(tmp_path):
    root = small.nyuv2(tmp_path, 2)
    for file in ("img/1.png", "normal/1.png"):
        small.save(root / file, small.numbers(1, 250, (6, 7, 3)))
    small.save(root / "seg/1.png", small.numbers(1, 40, (6, 7)))
    small.save(root / "depth/1.npy", np.ones((6, 7), np.float32))
    assert [image.shape[-2:] for image, _ in evaluate(root)] == [(12, 16), (6, 7)]
    sentence = r"^images of unequal size in one batch: img/0.png \(12 x 16\), img/1.png \(6 x 7\); use"
    with pytest.raises(ValueError, match=sentence):
        list(evaluate(root, eval_batch_size=2))


def test_batches_that_cannot_be_dealt_evenly(root):
    with pytest.raises(ValueError, match="^data.batch_size 2 cannot be dealt evenly to 3 processes$"):
        train(root, world=3)


class TestBrokenSamples:
    """Records 1 and 3 of 5 cannot be read."""

    @pytest.fixture
    def broken(self, tmp_path):
        root = small.nyuv2(tmp_path, 5)
        (root / "img/1.png").write_bytes(b"")
        (root / "seg/3.png").unlink()
        return root

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_first_stops_by_default(self, broken, workers):
        with pytest.raises(BrokenSample) as error:
            list(train(broken, num_workers=workers))
        assert str(error.value) in (
            "img/1.png (record 1 of split 'train') is no complete picture",
            "seg/3.png (record 3 of split 'train') is missing",
        )

    @pytest.mark.parametrize("workers", [0, 2])
    def test_one_more_than_allowed_stops(self, broken, workers):
        stream = train(broken, num_workers=workers, skip_unreadable=1, stop=3)
        with (
            pytest.warns(UserWarning, match="replaced by the next one \\(1 of at most 1\\)"),
            pytest.raises(BrokenSample, match="; data.skip_unreadable 1 is used up$"),
        ):
            list(stream)
        assert len(stream.broken) == 1

    def test_the_allowed_ones_are_replaced_alike_by_any_number_of_workers(self, broken):
        streams = [train(broken, num_workers=n, skip_unreadable=2, stop=5) for n in (0, 1, 3)]
        with pytest.warns(UserWarning, match="replaced") as told:
            found = [list(stream) for stream in streams]
        assert sum("replaced" in str(one.message) for one in told) == 6
        assert same(found[0], found[1]) and same(found[0], found[2])
        assert [sorted(stream.broken) for stream in streams] == [[1, 3]] * 3

    def test_the_next_readable_record_takes_the_place(self, broken):
        data = small.settings("nyuv2", broken, val_fraction=0, skip_unreadable=2)
        items = TrainingItems(small.opened(data, "train"), data, seed=0)
        (broken / "img/2.png").unlink()
        assert items[(0, 0)].broken == {}
        assert items[(0, 1)].name == "" and sorted(items[(0, 1)].broken) == [1, 2, 3]
        assert items[(0, 3)].name == "img/4.png" and sorted(items[(0, 3)].broken) == [3]
        (broken / "img/4.png").unlink()
        assert items[(0, 3)].name == "img/0.png" and sorted(items[(0, 3)].broken) == [3, 4]

    def test_a_split_without_a_readable_record_stops(self, tmp_path):
        root = small.nyuv2(tmp_path, 1)
        (root / "img/0.png").unlink()
        with (
            pytest.warns(UserWarning),
            pytest.raises(ValueError, match="no record of the training split can be read"),
        ):
            list(train(root, skip_unreadable=9))

    def test_evaluation_leaves_them_out(self, broken):
        with pytest.raises(BrokenSample, match="^img/1.png"):
            list(evaluate(broken))
        with pytest.warns(UserWarning, match="left out"):
            found = list(evaluate(broken, skip_unreadable=2))
        intact = small.settings("nyuv2", broken, val_fraction=0)
        records = small.opened(intact, "train")
        readable = replace(records, entries=tuple(records.entries[k] for k in (0, 2, 4)))
        assert same(found, evaluation_batches(readable, intact))

    def test_nothing_is_said_of_sound_data(self, root):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            list(train(root, skip_unreadable=3, num_workers=2))
