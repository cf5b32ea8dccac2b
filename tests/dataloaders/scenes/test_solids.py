"""Rays against solids, worked by hand."""

import numpy as np
import pytest

from dataloaders.scenes.solids import FAR, Solid, leave_box, meet, normals, to_unit

AHEAD = np.array([[0.0], [0.0], [1.0]], np.float32)  # one ray along z
START = np.zeros(3, np.float32)


def solid(shape, centre=(0, 0, 5), half=(1, 1, 1), yaw=0.0):
    return Solid(shape, "box", "card", centre, half, yaw)


@pytest.mark.parametrize("shape", ["box", "ball", "drum"])
def test_ray_meets_the_front(shape):
    assert meet(solid(shape), START, AHEAD)[0] == pytest.approx(4)


@pytest.mark.parametrize("shape", ["box", "ball", "drum"])
def test_ray_misses_beside_and_behind(shape):
    assert meet(solid(shape, centre=(3, 0, 5)), START, AHEAD)[0] == FAR
    assert meet(solid(shape, centre=(0, 0, -5)), START, AHEAD)[0] == FAR


def test_half_sizes_and_yaw():
    assert meet(solid("box", half=(1, 1, 2)), START, AHEAD)[0] == pytest.approx(3)
    turned = solid("box", half=(1, 1, 2), yaw=np.pi / 2)
    assert meet(turned, START, AHEAD)[0] == pytest.approx(4, abs=1e-5)
    corner = solid("box", yaw=np.pi / 4)
    assert meet(corner, START, AHEAD)[0] == pytest.approx(5 - np.sqrt(2), abs=1e-3)


def test_leaving_the_room():
    room = solid("box", centre=(0, 0, 0), half=(2, 2, 3))
    assert leave_box(room, START, AHEAD)[0] == pytest.approx(3)


def test_normals_point_outwards():
    point = np.array([[0.0], [0.0], [4.0]], np.float32)
    for shape in ("box", "ball", "drum"):
        thing = solid(shape)
        np.testing.assert_allclose(normals(thing, point, to_unit(thing, point))[:, 0], [0, 0, -1], atol=1e-6)
    top = np.array([[0.0], [1.0], [5.0]], np.float32)
    drum = solid("drum")
    np.testing.assert_allclose(normals(drum, top, to_unit(drum, top))[:, 0], [0, 1, 0], atol=1e-6)
