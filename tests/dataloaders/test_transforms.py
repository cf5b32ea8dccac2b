"""One crop for image and targets: against cv2.resize and a crop, and where a marked pixel lands."""

from functools import partial

import cv2
import numpy as np
import pytest

from common.names import MEAN_BGR
from dataloaders.transforms import Axis, Crop, crop_image, crop_target, nearest_index, random_crop, whole
from tasks.base import Geometry

SIZE = (30, 41)


def as_is(crop):
    return crop


def target_as_is(crop):
    value = crop.astype(np.float32)
    return (value[None] if crop.ndim == 2 else value.transpose(2, 0, 1).copy()), np.ones(crop.shape[:2], bool)


def padded(plane, axis, axes):
    """plane crop along one axis in the obvious way, padding = 0, by hand."""
    taken = [plane.take(k, axis=axes) if 0 <= k < axis.scaled else 0 * plane.take(0, axis=axes)
             for k in range(axis.start, axis.start + axis.length)]  # fmt: skip
    return np.stack(taken, axes)


def reference(plane, crop, interpolation):
    """cv2.resize of the whole, crop, hflip."""
    resized = cv2.resize(plane, (crop.cols.scaled, crop.rows.scaled), interpolation=interpolation)
    out = padded(padded(resized.astype(np.float64), crop.rows, 0), crop.cols, 1)
    return out[:, ::-1] if crop.hflip else out


def draws(crop, count=40):
    rng = np.random.default_rng(3)
    return [random_crop(rng, SIZE, crop, (0.5, 1.5), 0.5) for _ in range(count)]


def noise(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(1).integers(0, high, shape).astype(dtype)


@pytest.mark.parametrize("side", [8, 25, 70])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_image_equals_resize_then_crop(side, dtype):
    image = noise(*SIZE, 3, dtype=dtype)
    for crop in draws(side):
        ours = crop_image(image, crop, as_is).numpy().transpose(1, 2, 0)
        ones = reference(np.ones((*SIZE, 3), np.uint8), crop, cv2.INTER_NEAREST)
        theirs = reference(image, crop, cv2.INTER_LINEAR) - np.array(MEAN_BGR)
        assert np.abs(ours - theirs * ones).max() <= 1.001


@pytest.mark.parametrize("side", [8, 25, 70])
@pytest.mark.parametrize(
    "plane",
    [noise(*SIZE), noise(*SIZE, 3), noise(*SIZE, high=65536, dtype=np.uint16), noise(*SIZE, dtype=float)],
)
def test_target_equals_resize_then_crop(plane, side):
    for crop in draws(side):
        value, valid = crop_target(plane, crop, target_as_is, Geometry())
        assert np.array_equal(
            value.numpy().transpose(1, 2, 0).squeeze(), reference(plane, crop, cv2.INTER_NEAREST)
        )
        ones = reference(np.ones(SIZE, np.uint8), crop, cv2.INTER_NEAREST)
        assert np.array_equal(valid[0].numpy(), ones > 0)


@pytest.mark.parametrize("stored", [(30, 41), (60, 82), (33, 37), (20, 20)])
def test_planes_of_another_size_are_resized_first(stored):
    plane, image = noise(*stored), noise(*stored, 3)
    small, photo = (cv2.resize(p, SIZE[::-1], interpolation=cv2.INTER_NEAREST) for p in (plane, image))
    for crop in [*draws(25, 10), whole(SIZE)]:
        one, two = (crop_target(p, crop, target_as_is, Geometry()).value for p in (plane, small))
        assert one.equal(two)
        assert crop_image(image, crop, as_is).equal(crop_image(photo, crop, as_is))


def test_nearest_index_by_hand():
    assert nearest_index(6, 3).tolist() == [0, 2, 4]
    assert nearest_index(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest_index(2, 3).tolist() == [0, 0, 1]


def test_marked_pixel_lands_on_the_same_place():
    image, plane, normals = (
        np.zeros((*SIZE, 3), np.uint8),
        np.zeros(SIZE, np.uint16),
        np.zeros((*SIZE, 3), np.uint8),
    )
    for array in (image, plane, normals):
        array[12:15, 20:23] = 255
    seen = 0
    for crop in draws(25):
        bright = crop_image(image, crop, as_is)[0].numpy() > 128
        marks = [
            crop_target(p, crop, target_as_is, Geometry()).value[0].numpy() > 0 for p in (plane, normals)
        ]
        assert np.array_equal(*marks)
        if marks[0].sum() >= 4 and not (marks[0][[0, -1]].any() or marks[0][:, [0, -1]].any()):
            seen += 1
            centres = [np.argwhere(mark).mean(0) for mark in (bright, marks[0])]
            assert np.abs(centres[0] - centres[1]).max() <= 1
    assert seen >= 10


def test_whole_leaves_everything_as_it_is():
    image, plane = noise(4, 6, 3), noise(4, 6)
    assert np.array_equal(
        crop_image(image, whole((4, 6)), as_is).numpy(), (image - np.float32(MEAN_BGR)).transpose(2, 0, 1)
    )
    value, valid = crop_target(plane, whole((4, 6)), target_as_is, Geometry())
    assert np.array_equal(value[0].numpy(), plane) and valid.all()


def test_small_image_is_padded_around_its_centre():
    crop = random_crop(np.random.default_rng(0), (2, 3), 6, (1.0, 1.0), 0.0)
    _, valid = crop_target(noise(2, 3), crop, target_as_is, Geometry())
    assert valid[0].int().tolist() == [[0] * 6] * 2 + [[0, 1, 1, 1, 0, 0]] * 2 + [[0] * 6] * 2
    image = crop_image(noise(2, 3, 3), crop, as_is)
    assert (image[:, ~valid[0]] == 0).all() and (image[:, valid[0]] != 0).all()


def test_padding_of_a_flipped_crop_is_on_the_other_side():
    plane = np.array([[1, 2, 3]], np.uint8)
    rows, cols = Axis(1, 1, 0, 1), Axis(3, 3, -1, 6)
    value, valid = crop_target(plane, Crop(1.0, True, rows, cols), target_as_is, Geometry())
    assert value[0].tolist() == [[0, 0, 3, 2, 1, 0]]
    assert valid[0].int().tolist() == [[0, 0, 1, 1, 1, 0]]


@pytest.mark.parametrize(("scale", "expected"), [("keep", 3.0), ("divide", 2.0), ("multiply", 4.5)])
def test_depth_of_an_enlarged_scene(scale, expected):
    crop = Crop(1.5, False, Axis(4, 6, 0, 6), Axis(4, 6, 0, 6))
    value = crop_target(np.full((4, 4), 3, np.float32), crop, target_as_is, Geometry(scale=scale)).value
    assert (value == expected).all()


@pytest.mark.parametrize(("hflip", "signs"), [(None, [1, 1, 1]), (0, [-1, 1, 1]), (2, [1, 1, -1])])
def test_flipped_normals(hflip, signs):
    plane = np.full((1, 2, 3), 7, np.uint8)
    for flipped in (False, True):
        crop = whole((1, 2))._replace(hflip=flipped)
        value = crop_target(plane, crop, target_as_is, Geometry(hflip=hflip)).value
        assert value[:, 0, 0].tolist() == [7 * s if flipped else 7 for s in signs]


def test_draws_cover_their_ranges():
    rng = np.random.default_rng(0)
    many = [random_crop(rng, (10, 10), 10, (0.5, 1.5), 0.5) for _ in range(2000)]
    assert 0.5 <= min(d.scale for d in many) < 0.51 and 1.49 < max(d.scale for d in many) <= 1.5
    assert 900 < sum(d.hflip for d in many) < 1100
    assert {d.rows.start for d in many if d.rows.scaled == 12} == {0, 1, 2}
    assert {d.cols.start for d in many if d.cols.scaled == 6} == {-2}
    assert {d.cols.start for d in many if d.cols.scaled == 7} == {-1}
    assert all(d.rows.scaled == d.cols.scaled == round(10 * d.scale) for d in many)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, False), (1.0, True)])
def test_hflip_probability(probability, expected):
    rng = np.random.default_rng(0)
    assert {random_crop(rng, SIZE, 4, (1, 1), probability).hflip for _ in range(50)} == {expected}


def test_targets_are_written_to_no_source(tmp_path):
    plane = noise(*SIZE)
    plane.setflags(write=False)
    for crop in draws(20, 8):
        crop_target(plane, crop, partial(target_as_is), Geometry(hflip=0, scale="divide"))
