"""Materials: a small tileable picture for each, drawn from a generator, and how it answers to light.

Every kind of thing keeps to its own colours and pattern, so that a network can learn to tell kinds apart in
minutes. Leaves out: reflections, bump maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 128  # pixels of a texture tile


@dataclass(frozen=True)
class Material:
    """colours: one is drawn, sRGB 0..1; tile: metres that a tile covers, None = stretched over each face."""

    colours: tuple[tuple[float, float, float], ...]
    pattern: str = "plain"
    tile: float | None = 0.8
    gloss: float = 0.0  # strength of the highlight
    glow: float = 0.0  # light of its own, 0..1


def noise(rng: np.random.Generator, cells: int, stretch: int = 1) -> np.ndarray:
    """Smooth tileable noise [SIDE, SIDE] in about [-1, 1]; stretch > 1 lengthens it along v."""
    lattice = rng.uniform(-1, 1, (max(cells // stretch, 1), cells)).astype(np.float32)
    tiled = cv2.resize(np.tile(lattice, (3, 3)), (3 * SIDE, 3 * SIDE), interpolation=cv2.INTER_CUBIC)
    return tiled[SIDE : 2 * SIDE, SIDE : 2 * SIDE]


def _grid(cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of the cell, and the distance to its border in cells, along one axis."""
    place = (np.arange(SIDE) + 0.5) / SIDE * cells
    return place.astype(int), np.abs(place - np.round(place))


def _plain(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base * (1 + 0.05 * noise(rng, 8) + 0.03 * noise(rng, 64))[..., None]


def _carpet(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base * (1 + 0.12 * noise(rng, 64) + 0.12 * rng.uniform(-1, 1, (SIDE, SIDE)))[..., None]


def _planks(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    board, edge = _grid(4)
    shade = (
        1 + 0.18 * rng.uniform(-1, 1, 4)[board][None] + 0.10 * noise(rng, 64, 16) + 0.06 * noise(rng, 32, 4)
    )
    return base * (shade * np.where(edge < 0.03, 0.65, 1)[None])[..., None]


def _grain(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base * (1 + 0.12 * noise(rng, 64, 16) + 0.08 * noise(rng, 16, 4))[..., None]


def _tiles(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    cell, edge = _grid(4)
    shade = 1 + 0.10 * rng.uniform(-1, 1, (4, 4))[cell[:, None], cell[None]] + 0.04 * noise(rng, 32)
    joint = (edge[:, None] < 0.05) | (edge[None] < 0.05)
    return np.where(joint[..., None], 0.75 * base.mean(), base * shade[..., None])


def _stripes(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    cell, _ = _grid(8)
    shade = np.where(cell % 2, 1.0, 0.80)[None] + 0.03 * noise(rng, 32)
    return base * shade[..., None]


def _plaid(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    cell, _ = _grid(6)
    light = np.where(cell % 2, 1.0, 0.72)
    return base * (light[:, None] * light[None] + 0.05 * noise(rng, 64))[..., None]


def _books(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    colours = rng.uniform(0.15, 0.85, (4, 16, 3))
    row, edge = _grid(4)
    column, side = _grid(16)
    picture = colours[row[:, None], column[None]] * np.where(side < 0.08, 0.6, 1)[None, :, None]
    height = (np.arange(SIDE) + 0.5) / SIDE * 4 % 1  # 0 at the top of a shelf
    gap = height[:, None] < rng.uniform(0.05, 0.35, (4, 16))[row[:, None], column[None]]
    picture = np.where(gap[..., None], 0.25 * base, picture)
    return np.where((edge < 0.06)[:, None, None], base, picture)


def _leaves(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    return base * np.clip(1 + 0.45 * noise(rng, 16) + 0.35 * noise(rng, 48), 0.25, 1.7)[..., None]


def _painting(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    blobs = np.stack([0.5 + 0.4 * noise(rng, 5) for _ in range(3)], -1)
    frame = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])
    inside = np.minimum(frame[:, None], frame[None])[..., None]
    return np.where(inside < 9, base, np.where(inside < 20, 0.93, 0.5 * blobs + 0.5 * rng.uniform(0, 1, 3)))


def _panels(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """A door or a cupboard front: two by two sunken panels."""
    _, edge = _grid(2)
    depth = np.minimum(edge[:, None], edge[None])
    shade = np.where(np.abs(depth - 0.12) < 0.025, 0.62, 1.0) + 0.06 * noise(rng, 32, 8)
    return base * shade[..., None]


def _drawers(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    _, edge = _grid(3)
    knob = (np.hypot((np.arange(SIDE) - SIDE / 2)[None] * 1.0, (edge[:, None] - 0.5) * SIDE / 3) < 4)[
        ..., None
    ]
    shade = np.where(edge < 0.05, 0.5, 1)[:, None] + 0.10 * noise(rng, 64, 16)
    return np.where(knob, 0.25, base * shade[..., None])


def _panes(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """A window: sky over far greenery, behind bars."""
    height = np.linspace(0, 1, SIDE)[:, None, None] + 0.08 * noise(rng, 12)[..., None]
    view = np.where(height < 0.62, base, np.array([0.55, 0.68, 0.50]))
    _, edge = _grid(2)
    return np.where((np.minimum(edge[:, None], edge[None]) < 0.05)[..., None], 0.98, view)


def _screen(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    frame = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])
    sheen = 0.05 * (np.arange(SIDE)[:, None] + np.arange(SIDE)[None] < SIDE)[..., None]
    return np.where((np.minimum(frame[:, None], frame[None]) < 5)[..., None], 0.16, base + sheen)


def _dial(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE / 2) - 1
    hand = rng.uniform(0, 2 * np.pi, 2)
    mark = np.hypot(x, y) > 0.88
    for angle, length in zip(hand, (0.5, 0.75), strict=True):
        along, across = x * np.cos(angle) + y * np.sin(angle), x * np.sin(angle) - y * np.cos(angle)
        mark |= (np.abs(across) < 0.06) & (along > 0) & (along < length)
    return np.where(mark[..., None], 0.1, base)


_PATTERNS: dict[str, Callable] = {
    "plain": _plain, "carpet": _carpet, "planks": _planks, "grain": _grain, "tiles": _tiles,
    "stripes": _stripes, "plaid": _plaid, "books": _books, "leaves": _leaves, "painting": _painting,
    "panels": _panels, "drawers": _drawers, "panes": _panes, "screen": _screen, "dial": _dial,
}  # fmt: skip


def paint(rng: np.random.Generator, material: Material) -> np.ndarray:
    """A texture tile, float32 [SIDE, SIDE, 3] in [0, 1]; rows run downwards on a wall."""
    base = np.array(material.colours[rng.integers(len(material.colours))])
    base = np.clip(base * (1 + rng.uniform(-0.08, 0.08)) + rng.uniform(-0.03, 0.03, 3), 0.02, 1)
    return np.clip(_PATTERNS[material.pattern](rng, base), 0, 1).astype(np.float32)


MATERIALS: dict[str, Material] = {
    "wall": Material(
        ((0.86, 0.82, 0.72), (0.76, 0.83, 0.80), (0.84, 0.77, 0.76), (0.80, 0.80, 0.84)), "plain"
    ),
    "paper": Material(((0.84, 0.80, 0.66), (0.72, 0.80, 0.84), (0.82, 0.74, 0.74)), "stripes", 0.6),
    "boards": Material(((0.62, 0.43, 0.27), (0.50, 0.34, 0.21), (0.72, 0.56, 0.38)), "planks", 0.6, 0.12),
    "flags": Material(((0.62, 0.60, 0.57), (0.55, 0.50, 0.46)), "tiles", 1.6, 0.12),
    "carpet": Material(((0.45, 0.42, 0.44), (0.42, 0.46, 0.40)), "carpet", 0.7),
    "ceiling": Material(((0.95, 0.95, 0.93),), "plain"),
    "pine": Material(((0.80, 0.62, 0.38),), "grain", 0.9, 0.08),
    "pine_front": Material(((0.80, 0.62, 0.38),), "drawers", None, 0.08),
    "oak": Material(((0.45, 0.28, 0.15), (0.40, 0.24, 0.14)), "grain", 0.9, 0.15),
    "shelf": Material(((0.55, 0.40, 0.26),), "books", None),
    "dark": Material(((0.12, 0.12, 0.14),), "plain", 0.5, 0.2),
    "seat": Material(((0.72, 0.20, 0.16), (0.80, 0.34, 0.14)), "plain", 0.5),
    "sofa": Material(((0.22, 0.34, 0.52), (0.20, 0.42, 0.44)), "carpet", 0.5),
    "sheet": Material(((0.55, 0.58, 0.80), (0.70, 0.55, 0.72)), "plaid", 0.9),
    "linen": Material(((0.95, 0.94, 0.92),), "plain", 0.4),
    "steel": Material(((0.74, 0.77, 0.80),), "plain", 1.5, 0.5),
    "screen": Material(((0.04, 0.04, 0.06),), "screen", None, 0.6),
    "door": Material(((0.93, 0.92, 0.88), (0.58, 0.38, 0.24)), "panels", None, 0.1),
    "window": Material(((0.62, 0.78, 0.98),), "panes", None, 0.0, 0.75),
    "painting": Material(((0.20, 0.14, 0.10), (0.75, 0.62, 0.25)), "painting", None),
    "board": Material(((0.97, 0.97, 0.98),), "screen", None, 0.25),
    "shade": Material(((1.00, 0.90, 0.62),), "plain", 0.5, 0.0, 0.8),
    "leaves": Material(((0.20, 0.48, 0.16), (0.26, 0.52, 0.14)), "leaves", 0.35),
    "clay": Material(((0.68, 0.34, 0.22),), "plain", 0.5),
    "glaze": Material(((0.10, 0.50, 0.62), (0.14, 0.38, 0.70)), "plain", 0.3, 0.7),
    "glass": Material(((0.10, 0.42, 0.22),), "plain", 0.3, 0.7),
    "card": Material(((0.76, 0.58, 0.38),), "plain", 0.5),
    "ball": Material(((0.90, 0.72, 0.10), (0.88, 0.30, 0.50)), "stripes", None, 0.4),
    "rug": Material(((0.62, 0.16, 0.20), (0.60, 0.30, 0.12)), "plaid", 0.7),
    "dial": Material(((0.97, 0.97, 0.95),), "dial", None),
}
