"""Normals from depth: planes worked by hand, and the normals that come with real images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from dataloaders.prepare.normals import Intrinsics, normals_from_depth

CAMERA = Intrinsics(60.0, 50.0, 20.0, 15.0)
SAMPLES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "nyu_v2_samples"


def plane_depth(normal, distance, shape=(30, 40)):
    """Depth of the plane normal . point = -distance; normal: right, up, into the scene."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    x, y = (columns - CAMERA.cx) / CAMERA.fx, -(rows - CAMERA.cy) / CAMERA.fy
    return -distance / (normal[0] * x + normal[1] * y + normal[2])


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.6, 0, -0.8), (-0.48, 0.36, -0.8)])
def test_planes(normal):
    found, known = normals_from_depth(plane_depth(normal, 2.0), CAMERA)
    assert known.all()
    np.testing.assert_allclose(
        found[:, 5:-5, 5:-5], np.broadcast_to(np.reshape(normal, (3, 1, 1)), (3, 20, 30)), atol=2e-3
    )


def test_two_surfaces_do_not_mix():
    depth = np.full((30, 40), 2.0)
    depth[:, 20:] = 4.0
    found, known = normals_from_depth(depth, CAMERA)
    assert known.all()
    np.testing.assert_allclose(found[2], -1, atol=1e-3)


def test_unknown_depth_has_no_normal():
    depth = np.full((30, 40), 2.0)
    depth[10:20, 10:20], depth[0, 0] = 0, np.nan
    found, known = normals_from_depth(depth, CAMERA)
    np.testing.assert_array_equal(known, np.isfinite(depth) & (depth > 0))
    assert np.isfinite(found).all()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="real samples are not here")
@pytest.mark.parametrize("name", ["0061", "0295"])
def test_real_images(name):
    stored = cv2.imread(str(SAMPLES / "normal_mask" / f"{name}.png"))[..., ::-1]
    given = (stored / 255 * 2 - 1).transpose(2, 0, 1)[[0, 2, 1]]
    given /= np.linalg.norm(given, axis=0) + 1e-9
    found, known = normals_from_depth(np.load(SAMPLES / "depth" / f"{name}.npy"))
    both = known & (stored != 255).all(-1)
    assert both.sum() > 0.99 * (stored != 255).all(-1).sum()
    angle = np.degrees(np.arccos(np.clip((found * given).sum(0)[both], -1, 1)))
    assert np.median(angle) < 1
