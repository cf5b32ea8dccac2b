"""Ray casting of a room: picture, kinds, normals and depth of the same pixels.

One ray a pixel for all planes, so they agree exactly. Light: a lamp under the ceiling with soft shadows, and
ambient light that fades in corners. Leaves out: reflections, refraction, motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from dataloaders.scenes.furniture import KINDS
from dataloaders.scenes.materials import MATERIALS, SIDE
from dataloaders.scenes.rooms import Camera, Room
from dataloaders.scenes.solids import Solid, leave_box, meet, normals, to_unit

ROOM = -1  # number of the walls among the solids
DARK_TO_DEPTH = ("window", "television")  # a depth camera sees nothing here


@dataclass(frozen=True)
class View:
    """What the camera sees.

    image: uint8 RGB [H, W, 3]; kind: uint8 [H, W], position in KINDS;
    normal: float32 [3, H, W], unit vectors in the camera's right, up, forward; depth: float32 [H, W], metres
    along the optical axis; blind: bool [H, W], where a depth camera would fail.
    """

    image: np.ndarray
    kind: np.ndarray
    normal: np.ndarray
    depth: np.ndarray
    blind: np.ndarray


def rays(camera: Camera, size: tuple[int, int]) -> np.ndarray:
    """[3, H, W] directions in the world with forward component 1, so that t is depth."""
    height, width = size
    focal = camera.focal * height if width >= height else camera.focal * width
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / focal
    y = (height / 2 - 0.5 - np.arange(height, dtype=np.float32)) / focal
    right, up, forward = (axis.reshape(3, 1, 1) for axis in camera.axes)
    return right * x[None, None] + up * y[None, :, None] + forward


def _window(solid: Solid, camera: Camera, size: tuple[int, int]) -> tuple[slice, slice]:
    """The part of the picture in which the solid can appear."""
    height, width = size
    focal = camera.focal * height if width >= height else camera.focal * width
    right, up, forward = camera.axes @ (solid.corners() - camera.position[:, None])
    if forward.max() < 0.05:
        return slice(0, 0), slice(0, 0)
    if forward.min() < 0.05:
        return slice(0, height), slice(0, width)
    x, y = right / forward * focal + width / 2, height / 2 - up / forward * focal
    low, high = np.floor([y.min(), x.min()]).astype(int) - 1, np.ceil([y.max(), x.max()]).astype(int) + 1
    low, high = np.clip(low, 0, [height, width]), np.clip(high, 0, [height, width])
    return slice(low[0], high[0]), slice(low[1], high[1])


def _cast(room: Room, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depth and number of the first solid on every ray."""
    origin = room.camera.position
    depth = leave_box(room.walls, origin, direction)
    number = np.full(depth.shape, ROOM, np.int16)
    for index, solid in enumerate(room.solids):
        window = _window(solid, room.camera, depth.shape)
        if window[0].stop <= window[0].start or window[1].stop <= window[1].start:
            continue
        rays = (slice(None), *window)  # of all three axes
        t = meet(solid, origin, direction[rays])
        nearer = t < depth[window]
        depth[window][nearer] = t[nearer]
        number[window][nearer] = index
    return depth, number


def _sample(
    texture: np.ndarray, tile: float | None, unit: np.ndarray, half: Sequence[float], axis: np.ndarray
) -> np.ndarray:
    """Colours [N, 3] at points of a solid: the two coordinates across the face's axis are the tile's."""
    local = unit * np.asarray(half, np.float32)[:, None] / tile if tile else (unit + 1) / 2
    u = np.where(axis == 0, local[2], local[0])
    v = np.where(axis == 1, local[2], -local[1] if tile else 1 - local[1])
    count, width = u.size, 1024  # remap takes no picture wider than 32767
    rows = -(-count // width)
    grid = [np.resize(c * SIDE - 0.5, rows * width).astype(np.float32).reshape(rows, width) for c in (u, v)]
    return cv2.remap(texture, grid[0], grid[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).reshape(-1, 3)[
        :count
    ]


def _surface(room: Room, number: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple]:
    """Normal [3, N], colour [N, 3], kind [N] and (gloss, glow) of a solid's points."""
    solid = room.walls if number == ROOM else room.solids[number]
    unit = to_unit(solid, points)
    normal = normals(solid, points, unit)
    axis = np.abs(unit).argmax(0) if solid.shape == "box" else np.where(np.abs(unit[1]) > 0.9995, 1, 2)
    if number != ROOM:
        material = MATERIALS[solid.material]
        colour = _sample(room.textures[solid.material], material.tile, unit, solid.half, axis)
        kind = np.full(axis.shape, KINDS.index(solid.kind), np.uint8)
        return normal, colour, kind, (material.gloss, material.glow)
    faces = np.where(axis == 1, np.where(unit[1] < 0, "floor", "ceiling"), "wall")
    colour, kind = np.empty((axis.size, 3), np.float32), np.empty(axis.size, np.uint8)
    for face, name in room.surfaces.items():
        here = faces == face
        if here.any():
            colour[here] = _sample(
                room.textures[name], MATERIALS[name].tile, unit[:, here], solid.half, axis[here]
            )
            kind[here] = KINDS.index(face)
    return -normal, colour, kind, (0.0, 0.0)


def _shadow(room: Room, points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Share of the lamp's light [H, W] that arrives, found at half resolution and spread: soft shadows."""
    start = points[:, ::2, ::2] + 0.01 * normal[:, ::2, ::2]
    towards = room.lamp.reshape(3, 1, 1) - start
    lit = np.ones(start.shape[1:], np.float32)
    for solid in room.solids:
        if solid.half[2] > 0.035 and solid.half[1] > 0.008:  # pictures and rugs throw none
            lit[meet(solid, start, towards) < 0.98] = 0
    soft = cv2.GaussianBlur(lit, (0, 0), 0.006 * len(lit) + 0.4)
    return cv2.resize(soft, points.shape[:0:-1], interpolation=cv2.INTER_LINEAR)


def _corners(room: Room, points: np.ndarray) -> np.ndarray:
    """Ambient light [H, W], fainter where walls meet."""
    half = np.asarray(room.walls.half, np.float32).reshape(3, 1, 1)
    gap = half - np.abs(points - half)
    return 1 - 0.5 * np.exp(-np.sort(gap, axis=0)[1] / 0.30)


def render(room: Room, size: tuple[int, int], rng: np.random.Generator) -> View:
    """The room from its camera at size (height, width); rng draws the sensor's noise only."""
    direction = rays(room.camera, size)
    depth, number = _cast(room, direction)
    points = room.camera.position.reshape(3, 1, 1) + depth * direction
    normal, colour = np.empty_like(points), np.empty((*size, 3), np.float32)
    kind, gloss, glow = np.empty(size, np.uint8), np.zeros(size, np.float32), np.zeros(size, np.float32)
    for index in np.unique(number):
        here = number == index
        normal[:, here], colour[here], kind[here], (gloss[here], glow[here]) = _surface(
            room, index, points[:, here]
        )
    image = _develop(_light(room, points, normal, direction, gloss), glow, colour, rng)
    right_up_forward = np.einsum("ij,jhw->ihw", room.camera.axes, normal)
    blind = np.isin(kind, [KINDS.index(name) for name in DARK_TO_DEPTH])
    return View(image, kind, right_up_forward, depth, blind)


def _light(
    room: Room, points: np.ndarray, normal: np.ndarray, direction: np.ndarray, gloss: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse light [H, W] and highlight [H, W]."""
    towards = room.lamp.reshape(3, 1, 1) - points
    distance = np.sqrt((towards * towards).sum(0))
    towards /= distance
    facing = np.maximum((normal * towards).sum(0), 0) * _shadow(room, points, normal)
    middle = towards - direction / np.sqrt((direction * direction).sum(0))
    middle /= np.sqrt((middle * middle).sum(0)) + 1e-6
    shine = gloss * np.maximum((middle * normal).sum(0), 0) ** 40 * (facing > 0)
    ambient = (0.50 + 0.10 * normal[1] + 0.06 * normal[0]) * _corners(room, points)
    return ambient + 1.5 * facing / (1 + 0.25 * distance * distance), shine


def _develop(
    light: tuple[np.ndarray, np.ndarray], glow: np.ndarray, colour: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Linear light to an 8-bit picture with a lens's blur and a sensor's noise."""
    diffuse, shine = light
    linear = colour**2.2 * np.maximum(diffuse, 1.4 * glow)[..., None] + 0.6 * shine[..., None]
    picture = cv2.GaussianBlur(linear, (0, 0), max(linear.shape[0] / 900, 0.3))
    exposure = 0.45 / max(float(np.sqrt(np.mean(picture))), 0.1)
    picture = np.clip(picture * exposure**0.7, 0, 1) ** (1 / 2.2)
    picture += rng.normal(0, 0.012, picture.shape).astype(np.float32)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
