"""A random room: its size and surfaces, what stands in it, the lamp and the camera.

Everything follows from one Generator. Leaves out: rooms that are no boxes, doorways into other rooms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dataloaders.scenes.furniture import AGAINST_WALL, FREE, ON_TOP, ON_WALL, Thing, place, rug
from dataloaders.scenes.materials import MATERIALS, paint
from dataloaders.scenes.solids import Solid


@dataclass(frozen=True)
class Camera:
    """position: metres; axes [3, 3]: rows right, up, forward in the world; focal: length / short side."""

    position: np.ndarray
    axes: np.ndarray
    focal: float


@dataclass(frozen=True)
class Room:
    """walls: the hull, seen from inside; textures: material -> tile; surfaces: face -> material."""

    walls: Solid
    solids: list[Solid]
    textures: dict[str, np.ndarray]
    surfaces: dict[str, str]
    lamp: np.ndarray
    camera: Camera


class _Plan:
    """The floor plan while it fills up: rectangles that are taken, in metres."""

    def __init__(self, width: float, depth: float) -> None:
        self.width, self.depth = width, depth
        self.taken: list[tuple[float, float, float, float]] = []  # x, z and half sizes
        self.hung: list[tuple[str, float, float, float]] = []  # wall, place along it, width, lower edge

    def claim(self, x: float, z: float, half_x: float, half_z: float) -> bool:
        """Take a rectangle if it is inside the room and free."""
        inside = half_x <= x <= self.width - half_x and half_z <= z <= self.depth - half_z
        clash = any(abs(x - a) < half_x + b and abs(z - c) < half_z + d for a, c, b, d in self.taken)
        if inside and not clash:
            self.taken.append((x, z, half_x, half_z))
        return inside and not clash

    def hangs_before(self, wall: str, spot: float, width: float, lowest: float) -> bool:
        """Whether something on a wall would be hidden; lowest: lower edges from here on are above it."""
        return any(
            w == wall and abs(spot - s) < (width + other) / 2 and (lowest == 0 or edge < lowest)
            for w, s, other, edge in self.hung
        )


# wall: yaw of a thing whose back is on it, and where along (x, z); the camera stands near the wall z = 0
_WALLS = {"far": 0.0, "left": -np.pi / 2, "right": np.pi / 2}


def _on_wall(
    rng: np.random.Generator, wall: str, size: tuple[float, float], width: float
) -> tuple[float, float]:
    """A random (x, z) on a wall for a thing of this width; size: width and depth of the room."""
    if wall == "far":
        return rng.uniform(width / 2, max(size[0] - width / 2, width / 2 + 1e-3)), size[1]
    along = rng.uniform(min(1.4, size[1] - width / 2), size[1] - width / 2)
    return (0.0 if wall == "left" else size[0]), along


def _stand_at_wall(rng: np.random.Generator, plan: _Plan, thing: Thing) -> list[Solid]:
    for _ in range(12):
        wall = rng.choice(["far", "far", "left", "right"])
        x, z = _on_wall(rng, wall, (plan.width, plan.depth), thing.width)
        yaw, half, deep = _WALLS[wall], thing.width / 2 + 0.02, thing.depth / 2 + 0.02
        inward = {"far": (0, -deep), "left": (deep, 0), "right": (-deep, 0)}[wall]
        halves = (half, deep) if wall == "far" else (deep, half)
        if plan.hangs_before(wall, x if wall == "far" else z, thing.width, lowest=thing.height):
            continue
        if plan.claim(x + inward[0], z + inward[1], *halves):
            gap = 0.012  # a hair's breadth, so that two surfaces never coincide
            x, z = x + gap * np.sign(inward[0]), z + gap * np.sign(inward[1])
            return place(thing, (x, 0.0, z), yaw) + _things_on(rng, thing, (x, z, yaw), -thing.depth / 2)
    return []


def _things_on(
    rng: np.random.Generator, thing: Thing, at: tuple[float, float, float], middle: float
) -> list[Solid]:
    """One or two small things on a table or cabinet; at: its x, z, yaw; middle: local z of the top."""
    if thing.top is None:
        return []
    x, z, yaw = at
    solids: list[Solid] = []
    spots = [-0.28 * thing.width, 0.28 * thing.width]
    names = rng.permutation(list(ON_TOP))[: rng.integers(1, 3)].tolist()
    if "television" in names:  # too wide for a neighbour
        spots, names = [0.0], ["television"]
    for name, spot in zip(names, spots, strict=False):
        moved = Thing([s for s in ON_TOP[name](rng).solids], 0, 0)
        cos, sin = np.cos(yaw), np.sin(yaw)
        solids += place(moved, (x + cos * spot + sin * middle, thing.top, z + cos * middle - sin * spot), yaw)
    return solids


def _stand_free(rng: np.random.Generator, plan: _Plan, thing: Thing) -> list[Solid]:
    for _ in range(12):
        x, z = rng.uniform(0.4, plan.width - 0.4), rng.uniform(1.6, max(plan.depth - 0.6, 1.7))
        reach = max(thing.width, thing.depth) / 2
        if plan.claim(x, z, reach, reach):
            yaw = rng.uniform(-np.pi, np.pi)
            return place(thing, (x, 0.001, z), yaw) + _things_on(rng, thing, (x, z, yaw), 0.0)
    return []


def _hang(rng: np.random.Generator, names: np.ndarray, plan: _Plan) -> list[Solid]:
    """Pictures, windows and doors on the walls, none over another."""
    solids: list[Solid] = []
    for name in names:
        thing = ON_WALL[name](rng)
        wall = rng.choice(["far", "left", "right"])
        x, z = _on_wall(rng, wall, (plan.width, plan.depth), thing.width)
        spot = x if wall == "far" else z
        if not plan.hangs_before(wall, spot, thing.width + 0.1, lowest=0):
            bottom = thing.solids[0].centre[1] - thing.solids[0].half[1]
            plan.hung.append((wall, spot, thing.width, bottom))
            solids += place(thing, (x, 0.0, z), _WALLS[wall])
    return solids


def _look(rng: np.random.Generator, width: float, depth: float) -> Camera:
    """A camera at eye level near the wall z = 0 that looks into the room, level but for a hand's unrest."""
    position = np.array([rng.uniform(0.3, 0.7) * width, rng.uniform(1.2, 1.65), rng.uniform(0.25, 0.5)])
    towards = np.array([rng.uniform(0.25, 0.75) * width, 0, 0.75 * depth])
    yaw = np.arctan2(towards[0] - position[0], towards[2] - position[2]) + rng.uniform(-0.15, 0.15)
    pitch, roll = rng.uniform(-0.38, -0.02), rng.uniform(-0.05, 0.05)
    forward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([np.cos(yaw), 0, -np.sin(yaw)])
    up = np.cross(forward, right)
    right, up = np.cos(roll) * right + np.sin(roll) * up, np.cos(roll) * up - np.sin(roll) * right
    return Camera(position.astype(np.float32), np.stack([right, up, forward]).astype(np.float32), 1.08)


def random_room(rng: np.random.Generator) -> Room:
    """A furnished room of 3 to 5.5 metres, 2.4 to 2.9 high."""
    size = (rng.uniform(3.2, 5.2), rng.uniform(2.4, 2.9), rng.uniform(3.6, 5.5))
    plan = _Plan(size[0], size[2])
    camera = _look(rng, size[0], size[2])
    plan.claim(float(np.clip(camera.position[0], 0.7, size[0] - 0.7)), 0.6, 0.7, 0.6)
    hung = rng.permutation(["door", "window", "picture", "picture", "whiteboard", "clock"])
    solids = _hang(rng, hung, plan)
    for name in rng.permutation(list(AGAINST_WALL))[: rng.integers(3, 6)]:
        solids += _stand_at_wall(rng, plan, AGAINST_WALL[name](rng))
    for name in ["table", "chair", "chair", *rng.permutation(["box", "ball", "chair"])[: rng.integers(1, 4)]]:
        solids += _stand_free(rng, plan, FREE[name](rng))
    if rng.random() < 0.6:
        solids += place(
            rug(rng), (size[0] / 2, 0.0, rng.uniform(0.45, 0.7) * size[2]), rng.uniform(-0.3, 0.3)
        )
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    surfaces = {
        "wall": str(rng.choice(["wall", "wall", "paper"])),
        "floor": str(rng.choice(["boards", "flags", "carpet"])),
        "ceiling": "ceiling",
    }
    textures = {name: paint(rng, material) for name, material in MATERIALS.items()}
    lamp = np.array(
        [rng.uniform(0.3, 0.7) * size[0], size[1] - 0.15, rng.uniform(0.35, 0.7) * size[2]], np.float32
    )
    return Room(Solid("box", "wall", "wall", half, half), solids, textures, surfaces, lamp, camera)
