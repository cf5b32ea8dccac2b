"""The planes of a rendered view agree with each other and with geometry."""

import numpy as np
import pytest

from dataloaders.prepare.normals import Intrinsics, normals_from_depth
from dataloaders.scenes.furniture import KINDS
from dataloaders.scenes.render import rays, render
from dataloaders.scenes.rooms import random_room

SIZE = (96, 128)


@pytest.fixture(scope="module", params=[0, 3, 7])
def scene(request):
    rng = np.random.default_rng([1, request.param])
    room = random_room(rng)
    return room, render(room, SIZE, rng)


def test_shapes_and_ranges(scene):
    _, view = scene
    assert view.image.shape == (*SIZE, 3) and view.image.dtype == np.uint8
    assert view.kind.max() < len(KINDS)
    assert view.depth.min() > 0.1 and view.depth.max() < 10
    np.testing.assert_allclose((view.normal**2).sum(0), 1, atol=1e-4)


def test_normals_face_the_camera(scene):
    room, view = scene
    in_camera = np.einsum("ij,jhw->ihw", room.camera.axes, rays(room.camera, SIZE))
    assert ((view.normal * in_camera).sum(0) < 1e-3).mean() > 0.999


def test_normals_agree_with_depth(scene):
    _, view = scene
    focal = 1.08 * SIZE[0]
    camera = Intrinsics(focal, focal, SIZE[1] / 2 - 0.5, SIZE[0] / 2 - 0.5)
    found, known = normals_from_depth(view.depth, camera, offsets=(-1, 0, 1))
    angle = np.degrees(np.arccos(np.clip((found * view.normal).sum(0), -1, 1)))[known]
    assert np.median(angle) < 0.5
    assert (angle < 10).mean() > 0.85  # the rest: creases, small balls


def test_floor_lies_at_height_zero_and_looks_up(scene):
    room, view = scene
    points = room.camera.position.reshape(3, 1, 1) + view.depth * rays(room.camera, SIZE)
    floor = view.kind == KINDS.index("floor")
    assert floor.any()
    np.testing.assert_allclose(points[1][floor], 0, atol=1e-3)
    up = np.einsum("ji,jhw->ihw", room.camera.axes, view.normal)[1]  # back to the world
    np.testing.assert_allclose(up[floor], 1, atol=1e-3)


def test_pictures_are_neither_black_nor_burnt_out(scene):
    _, view = scene
    assert 60 < view.image.mean() < 210
    assert (view.image == 255).mean() < 0.2
    assert view.image.std() > 15
