"""Surface normals from a depth image.

The inverse depth of a plane is a linear function of the pixel: 1 / z = a x + b y + c with x, y on the plane z
= 1. The plane's normal is along (a, b, c). Every pixel gets the least-squares plane of its neighbourhood,
without the neighbours that lie on other surfaces. Leaves out: smoothing over edges, filling of holes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Intrinsics(NamedTuple):
    """Pinhole camera: focal lengths and centre, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


INVALID = 255
# the colour camera of NYUv2, onto which the depths of the labelled set are projected
NYU_COLOUR = Intrinsics(518.857901, 519.469611, 325.582449, 253.736166)
NYU_SIZE = (480, 640)  # of its images, rows and columns


def normals_from_depth(
    depth: np.ndarray,
    camera: Intrinsics = NYU_COLOUR,
    offsets: tuple[int, ...] = (-9, -6, -3, -1, 0, 1, 3, 6, 9),
    jump: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals float32 [3, H, W] (right, up, into the scene) that face the camera, and where known.

    depth: metres [H, W], 0 or not finite = unknown. offsets: rows and columns of the neighbourhood, pixels;
    these and the jump reproduce the normals that are commonly used for NYUv2 to 0.6 degrees at the median.
    jump: neighbours whose depth differs by more than this share are on another surface.
    """
    known = np.isfinite(depth) & (depth > 0)
    safe = np.where(known, depth, 1).astype(np.float32)
    inverse = np.where(known, 1 / safe, 0).astype(np.float32)
    sums = _sums(inverse, known, offsets, jump)
    a, b, c, enough = _plane(*sums)
    height, width = depth.shape
    # a and b are per pixel around this one: move them to the plane z = 1, rows grow downwards
    x = (np.arange(width, dtype=np.float32) - camera.cx)[None]
    y = (np.arange(height, dtype=np.float32) - camera.cy)[:, None]
    normal = np.stack([a * camera.fx, -b * camera.fy, c - a * x - b * y])
    length = np.sqrt((normal * normal).sum(0))
    known &= enough & (length > 0)
    normal /= np.where(length > 0, length, 1)
    # 1 / z > 0 in front of the camera, so (a, b, c) points away from it
    return np.where(known, -normal, 0).astype(np.float32), known


def encode_normals(normal: np.ndarray, known: np.ndarray) -> np.ndarray:
    """[3, H, W] (right, up, into the scene) -> uint8 [H, W, 3] as NYUv2's files hold them.

    (n + 1) / 2 * 255 with R = right, G = into the scene, B = up; 255 = invalid.
    """
    right, up, forward = normal
    encoded = np.round((np.stack([right, forward, up], -1) + 1) / 2 * 255)
    encoded = np.clip(encoded, 0, INVALID - 1).astype(np.uint8)  # a component of 1 must not read as invalid
    encoded[~known] = INVALID
    return encoded


def _sums(inverse: np.ndarray, known: np.ndarray, offsets: tuple[int, ...], jump: float) -> list[np.ndarray]:
    """Sums over each pixel's own surface of 1, u, v, uu, uv, vv, q, uq, vq; u, v in pixels, q = 1 / z."""
    height, width = inverse.shape
    radius = max(abs(offset) for offset in offsets)
    padded = np.pad(inverse, radius)
    sums = [np.zeros(inverse.shape, np.float32) for _ in range(9)]
    for v in offsets:
        for u in offsets:
            q = padded[radius + v : radius + v + height, radius + u : radius + u + width]
            near = (np.abs(q - inverse) < jump * inverse) & (q > 0) & known
            w, wq = near.astype(np.float32), np.where(near, q - inverse, 0)
            terms = (w, u * w, v * w, u * u * w, u * v * w, v * v * w, wq, u * wq, v * wq)
            for total, term in zip(sums, terms, strict=True):
                total += term
    sums.append(inverse)
    return sums


def _plane(*sums: np.ndarray) -> tuple[np.ndarray, ...]:
    """Least-squares a, b, c of q = a u + b v + c, and where the points are enough (not all on one line)."""
    n, u, v, uu, uv, vv, q, uq, vq, base = sums
    many = np.maximum(n, 1)
    uu, uv, vv = uu - u * u / many, uv - u * v / many, vv - v * v / many
    uq, vq = uq - u * q / many, vq - v * q / many
    determinant = uu * vv - uv * uv
    enough = (n >= 6) & (determinant > 1e-3 * np.maximum(uu * vv, 1))
    safe = np.where(enough, determinant, 1)
    a, b = (uq * vv - vq * uv) / safe, (vq * uu - uq * uv) / safe
    return a, b, base + (q - a * u - b * v) / many, enough
