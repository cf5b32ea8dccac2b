"""The catalogue of things that stand, lie and hang in a room, each a list of solids.

Local frame of a thing: it stands on y = 0, its front looks along -z, its back is against z = 0 where it
belongs to a wall, otherwise it is centred. Leaves out: soft shapes, people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dataloaders.scenes.solids import Solid, turn

Corner = tuple[float, float, float]
Range = tuple[float, float]


@dataclass(frozen=True)
class Thing:
    """solids in the local frame; width (x) and depth (z) of the footprint; top: where others may stand."""

    solids: list[Solid]
    width: float
    depth: float
    top: float | None = None

    @property
    def height(self) -> float:
        """Highest point of it, metres."""
        return max(solid.centre[1] + solid.half[1] for solid in self.solids)


def place(thing: Thing, position: tuple[float, float, float], yaw: float) -> list[Solid]:
    """The thing's solids in the room."""
    placed = []
    for solid in thing.solids:
        x, y, z = (turn(np.array(solid.centre), yaw) + np.array(position)).tolist()
        placed.append(replace(solid, centre=(x, y, z), yaw=solid.yaw + yaw))
    return placed


def box(kind: str, material: str, low: Corner, high: Corner) -> Solid:
    """A box between two corners."""
    one, other = np.array(low, float), np.array(high, float)
    return Solid("box", kind, material, tuple((one + other) / 2), tuple((other - one) / 2))


def upright(
    shape: str, kind: str, material: str, base: tuple[float, float, float], radius: float, height: float
) -> Solid:
    """A ball or drum on a base point."""
    x, y, z = base
    return Solid(shape, kind, material, (x, y + height / 2, z), (radius, height / 2, radius))


def _legs(
    kind: str, material: str, width: float, depth: float, height: float, centre_z: float = 0.0
) -> list[Solid]:
    reach_x, reach_z, thick = width / 2 - 0.03, depth / 2 - 0.03, 0.025
    return [
        box(kind, material, (x - thick, 0, z - thick), (x + thick, height, z + thick))
        for x in (-reach_x, reach_x)
        for z in (centre_z - reach_z, centre_z + reach_z)
    ]


def cabinet(rng: np.random.Generator) -> Thing:
    w, h, d = rng.uniform(0.7, 1.3), rng.uniform(0.7, 1.1), rng.uniform(0.4, 0.5)
    body = [box("cabinet", "pine", (-w / 2, 0, -d), (w / 2, h, 0))]
    body.append(box("cabinet", "pine_front", (-w / 2 + 0.02, 0.04, -d - 0.015), (w / 2 - 0.02, h - 0.03, -d)))
    return Thing(body, w, d, h)


def bookshelf(rng: np.random.Generator) -> Thing:
    w, h, d = rng.uniform(0.8, 1.4), rng.uniform(1.6, 2.1), 0.32
    return Thing([box("bookshelf", "shelf", (-w / 2, 0, -d), (w / 2, h, 0))], w, d)


def fridge(rng: np.random.Generator) -> Thing:
    w, h, d = 0.65, rng.uniform(1.6, 1.9), 0.62
    parts = [box("refrigerator", "steel", (-w / 2, 0, -d), (w / 2, h, 0))]
    parts.append(box("refrigerator", "dark", (w / 2 - 0.10, 0.8, -d - 0.04), (w / 2 - 0.07, 1.4, -d)))
    return Thing(parts, w, d)


def bed(rng: np.random.Generator) -> Thing:
    w, d, h = rng.uniform(1.1, 1.7), rng.uniform(1.9, 2.1), rng.uniform(0.42, 0.55)
    parts = [
        box("bed", "oak", (-w / 2, 0, -0.06), (w / 2, 0.95, 0)),
        box("bed", "oak", (-w / 2 + 0.02, 0, -d), (w / 2 - 0.02, 0.25, -0.06)),
        box("bed", "sheet", (-w / 2 + 0.04, 0.25, -d + 0.03), (w / 2 - 0.04, h, -0.06)),
    ]
    for x in (-w / 4, w / 4):
        parts.append(Solid("ball", "pillow", "linen", (x, h + 0.07, -0.32), (0.27, 0.10, 0.19)))
    return Thing(parts, w, d)


def sofa(rng: np.random.Generator) -> Thing:
    w, d = rng.uniform(1.5, 2.1), 0.85
    parts = [
        box("sofa", "sofa", (-w / 2 + 0.1, 0.08, -d + 0.02), (w / 2 - 0.1, 0.42, -0.02)),
        box("sofa", "sofa", (-w / 2 + 0.1, 0.08, -0.24), (w / 2 - 0.1, 0.82, -0.01)),
    ]
    for side in (-1, 1):
        x = side * (w / 2 - 0.09)
        parts.append(box("sofa", "sofa", (x - 0.09, 0.06, -d), (x + 0.09, 0.60, 0)))
    x = rng.uniform(-0.4, 0.4)
    parts.append(Solid("ball", "pillow", "linen", (x, 0.58, -0.33), (0.20, 0.18, 0.10)))
    return Thing(parts, w, d)


def chair(rng: np.random.Generator) -> Thing:
    w, h = 0.44, 0.45
    parts = [
        *_legs("chair", "dark", w, w, h),
        box("chair", "seat", (-w / 2, h, -w / 2), (w / 2, h + 0.05, w / 2)),
    ]
    parts.append(
        box(
            "chair",
            "seat",
            (-w / 2 + 0.01, h + 0.05, w / 2 - 0.05),
            (w / 2 - 0.01, rng.uniform(0.85, 1.0), w / 2 - 0.01),
        )
    )
    return Thing(parts, w + 0.05, w + 0.05)


def table(rng: np.random.Generator) -> Thing:
    h = rng.uniform(0.68, 0.78)
    if rng.random() < 0.35:
        r = rng.uniform(0.4, 0.6)
        parts = [
            upright("drum", "table", "oak", (0, h - 0.04, 0), r, 0.04),
            upright("drum", "table", "oak", (0, 0, 0), 0.05, h),
        ]
        parts.append(upright("drum", "table", "oak", (0, 0, 0), 0.6 * r, 0.03))
        return Thing(parts, 2 * r, 2 * r, h)
    w, d = rng.uniform(0.9, 1.5), rng.uniform(0.6, 0.9)
    parts = [
        *_legs("table", "oak", w, d, h),
        box("table", "oak", (-w / 2, h - 0.04, -d / 2), (w / 2, h, d / 2)),
    ]
    return Thing(parts, w, d, h)


def floor_lamp(rng: np.random.Generator) -> Thing:
    h = rng.uniform(1.3, 1.6)
    parts = [
        upright("drum", "lamp", "dark", (0, 0, -0.2), 0.14, 0.03),
        upright("drum", "lamp", "dark", (0, 0, -0.2), 0.02, h),
    ]
    parts.append(upright("drum", "lamp", "shade", (0, h - 0.15, -0.2), 0.20, 0.30))
    return Thing(parts, 0.42, 0.42)


def plant(rng: np.random.Generator) -> Thing:
    r = rng.uniform(0.2, 0.32)
    parts = [
        upright("drum", "plant", "clay", (0, 0, -0.3), 0.15, 0.3),
        upright("drum", "plant", "oak", (0, 0.3, -0.3), 0.02, 0.3),
    ]
    parts.append(upright("ball", "plant", "leaves", (0, 0.45, -0.3), r, 2.4 * r))
    return Thing(parts, 0.6, 0.6)


def carton(rng: np.random.Generator) -> Thing:
    w, h, d = rng.uniform(0.25, 0.5, 3)
    return Thing([box("box", "card", (-w / 2, 0, -d / 2), (w / 2, h, d / 2))], w, d)


def toy_ball(rng: np.random.Generator) -> Thing:
    r = rng.uniform(0.10, 0.20)
    return Thing([upright("ball", "ball", "ball", (0, 0, 0), r, 2 * r)], 2 * r, 2 * r)


def rug(rng: np.random.Generator) -> Thing:
    w, d = rng.uniform(1.2, 2.0), rng.uniform(0.9, 1.4)
    return Thing([box("rug", "rug", (-w / 2, 0, -d / 2), (w / 2, 0.012, d / 2))], w, d)


def vase(rng: np.random.Generator) -> Thing:
    r = rng.uniform(0.06, 0.10)
    parts = [
        upright("ball", "vase", "glaze", (0, 0, 0), r, 2.4 * r),
        upright("drum", "vase", "glaze", (0, 1.8 * r, 0), 0.45 * r, 1.2 * r),
    ]
    return Thing(parts, 2 * r, 2 * r)


def bottle(rng: np.random.Generator) -> Thing:
    h = rng.uniform(0.22, 0.32)
    parts = [
        upright("drum", "bottle", "glass", (0, 0, 0), 0.04, 0.65 * h),
        upright("drum", "bottle", "glass", (0, 0.6 * h, 0), 0.016, 0.4 * h),
    ]
    return Thing(parts, 0.08, 0.08)


def small_box(rng: np.random.Generator) -> Thing:
    w, h, d = rng.uniform(0.12, 0.25, 3)
    return Thing([box("box", "card", (-w / 2, 0, -d / 2), (w / 2, h, d / 2))], w, d)


def television(rng: np.random.Generator) -> Thing:
    w = rng.uniform(0.6, 0.8)
    parts = [
        box("television", "dark", (-0.15, 0, -0.08), (0.15, 0.02, 0.08)),
        box("television", "dark", (-0.03, 0, -0.02), (0.03, 0.1, 0.02)),
    ]
    parts.append(box("television", "screen", (-w / 2, 0.08, -0.03), (w / 2, 0.08 + 0.58 * w, 0.02)))
    return Thing(parts, w, 0.2)


def hung(
    kind: str, material: str, widths: Range, heights: Range, bottoms: Range
) -> Callable[[np.random.Generator], Thing]:
    """A flat thing on a wall: ranges of its width, height and of the height of its lower edge."""

    def make(rng: np.random.Generator) -> Thing:
        w, h, y = rng.uniform(*widths), rng.uniform(*heights), rng.uniform(*bottoms)
        return Thing([box(kind, material, (-w / 2, y, -0.04), (w / 2, y + h, 0.02))], w, 0.04)

    return make


FREE = {"table": table, "chair": chair, "box": carton, "ball": toy_ball}
AGAINST_WALL = {
    "cabinet": cabinet, "bookshelf": bookshelf, "refrigerator": fridge, "bed": bed, "sofa": sofa,
    "lamp": floor_lamp, "plant": plant,
}  # fmt: skip
ON_TOP = {"vase": vase, "bottle": bottle, "box": small_box, "television": television}
ON_WALL = {
    "door": hung("door", "door", (0.8, 0.95), (2.0, 2.1), (0, 1e-6)),
    "window": hung("window", "window", (0.8, 1.6), (0.9, 1.2), (0.9, 1.1)),
    "picture": hung("picture", "painting", (0.4, 0.9), (0.4, 0.7), (1.2, 1.5)),
    "whiteboard": hung("whiteboard", "board", (1.0, 1.6), (0.8, 1.0), (0.9, 1.1)),
    "clock": hung("clock", "dial", (0.35, 0.36), (0.35, 0.36), (1.7, 1.9)),
}
KINDS = (
    "wall", "floor", "ceiling", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "pillow", "rug", "refrigerator", "television", "box", "whiteboard", "lamp", "plant", "vase",
    "bottle", "clock", "ball",
)  # fmt: skip
