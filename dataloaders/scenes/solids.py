"""Solids and the rays that meet them.

A solid is a box, an ellipsoid or an upright elliptic cylinder, turned about the vertical axis. Its rays are
moved into a space where the shape is the unit one, so each shape needs a single formula; the ray parameter t
survives the move. Leaves out: tilted solids, meshes, transparency.

World: x right, y up, z deep, metres. Arrays keep coordinates first: [3, ...], float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FAR = np.float32(1e9)
TINY = np.float32(1e-9)


@dataclass(frozen=True)
class Solid:
    """shape: box, ball or drum; half: half sizes in metres; yaw: radians about y; kind, material: names."""

    shape: str
    kind: str
    material: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0

    @property
    def radius(self) -> float:
        """Radius of the bounding sphere, metres."""
        return float(np.linalg.norm(self.half))

    def corners(self) -> np.ndarray:
        """[3, 8], the corners of the bounding box."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8)
        return turn(signs * np.array(self.half)[:, None], self.yaw) + np.array(self.centre)[:, None]


def turn(points: np.ndarray, yaw: float) -> np.ndarray:
    """points [3, ...] turned about the vertical axis."""
    if yaw == 0:
        return points
    cos, sin = np.float32(np.cos(yaw)), np.float32(np.sin(yaw))
    x, y, z = points
    return np.stack([cos * x + sin * z, y, cos * z - sin * x])


def _column(vector: tuple[float, float, float], like: np.ndarray) -> np.ndarray:
    return np.asarray(vector, np.float32).reshape(3, *[1] * (like.ndim - 1))


def to_unit(solid: Solid, points: np.ndarray) -> np.ndarray:
    """World points [3, ...] in the solid's unit space."""
    return turn(points - _column(solid.centre, points), -solid.yaw) / _column(solid.half, points)


def to_unit_direction(solid: Solid, directions: np.ndarray) -> np.ndarray:
    return turn(directions, -solid.yaw) / _column(solid.half, directions)


def meet(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Ray parameter t > 0 where each ray enters the solid, FAR where it misses.

    origin [3, ...] or [3] (one camera), direction [3, ...].
    """
    if origin.ndim == 1:
        origin = origin.reshape(3, *[1] * (direction.ndim - 1))
    return _MEET[solid.shape](to_unit(solid, origin), to_unit_direction(solid, direction))


def leave_box(solid: Solid, origin: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """t where rays that start inside a box leave it (the room is seen from inside)."""
    o = to_unit(solid, origin.reshape(3, *[1] * (direction.ndim - 1)))
    _, far = _slabs(o, to_unit_direction(solid, direction))
    return far


def normals(solid: Solid, points: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Outward unit normals [3, N] in the world at surface points; unit: the same points in unit space."""
    if solid.shape == "ball":
        local = unit / _column(solid.half, unit)
    elif solid.shape == "drum":
        cap = np.abs(unit[1]) > 0.9995
        local = np.where(
            cap, np.stack([0 * unit[0], np.sign(unit[1]), 0 * unit[0]]), unit * _column((1, 0, 1), unit)
        )
        local = local / _column(solid.half, unit)
    else:
        axis = np.abs(unit).argmax(0)
        local = np.where(np.arange(3)[:, None] == axis, np.sign(unit), 0).astype(np.float32)
    local /= np.sqrt((local * local).sum(0)) + TINY
    return turn(local, solid.yaw)


def _slabs(o: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entry and exit of the cube [-1, 1]^3."""
    inverse = 1 / np.where(np.abs(d) < TINY, TINY, d)
    middle, reach = -o * inverse, np.abs(inverse)
    return (middle - reach).max(0), (middle + reach).min(0)


def _meet_box(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    near, far = _slabs(o, d)
    return np.where((near < far) & (near > 0), near, FAR)


def _roots(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both solutions of a t^2 + 2 b t + c = 0 and where they exist."""
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    a = np.maximum(a, TINY)
    return (-b - root) / a, (-b + root) / a, discriminant > 0


def _meet_ball(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    near, _, real = _roots((d * d).sum(0), (o * d).sum(0), (o * o).sum(0) - 1)
    return np.where(real & (near > 0), near, FAR)


def _meet_drum(o: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The common part of an endless upright cylinder and the slab |y| <= 1."""
    flat_o, flat_d = o[[0, 2]], d[[0, 2]]
    side_in, side_out, real = _roots(
        (flat_d * flat_d).sum(0), (flat_o * flat_d).sum(0), (flat_o * flat_o).sum(0) - 1
    )
    inverse = 1 / np.where(np.abs(d[1]) < TINY, TINY, d[1])
    middle, reach = -o[1] * inverse, np.abs(inverse)
    near, far = np.maximum(side_in, middle - reach), np.minimum(side_out, middle + reach)
    return np.where(real & (near < far) & (near > 0), near, FAR)


_MEET = {"box": _meet_box, "ball": _meet_ball, "drum": _meet_drum}
