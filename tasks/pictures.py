"""Colours: a palette for classes, colour maps for values, grey for what nobody knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.patches import Patch

GREY = 128  # invalid pixels

# each colour is the one farthest (in CIE Lab) from grey and from all before it, so any first n are distinct
PALETTE = np.frombuffer(
    bytes.fromhex(
        "0078d2 00ff00 ff0000 ff00ff ffd20f 3cffc3 c30f69 1e6900 000fb4 873c00 ffb4ff 2de1ff e1e196 5a1e69"
        "96d22d ffa596 ff870f a578ff 009678 968700 691e2d b40fa5 3c3c00 ff5a5a 0000ff a5c3ff 00e15a 003c69"
        "a56996 a5f0d2 69c369 0087a5 a53cff 78874b 1e3ca5 f0a55a 004b2d 96001e ff69c3 c35a69"
    ),
    dtype=np.uint8,
).reshape(-1, 3)


CLASS_LEGEND: dict[str, Any] = {
    "loc": "outside lower center",
    "frameon": False,
    "fontsize": 12,
    "title_fontsize": 12,
    "handlelength": 1.2,
    "columnspacing": 1.2,
    "labelspacing": 0.3,
    "title": "segmentation classes (grey: unknown)",
}


def class_keys(numbers: Iterable[int], names: Sequence[str]) -> list[Patch]:
    """The entries of a legend for some segmentation classes; names: of all classes by number."""
    from matplotlib.patches import Patch

    return [Patch(color=PALETTE[number % len(PALETTE)] / 255, label=names[number]) for number in numbers]


def grey_out(rgb: np.ndarray, valid: Tensor | None) -> np.ndarray:
    """The picture, uint8 [H, W, 3], with the pixels that are not valid (bool [1, H, W]) in mid-grey."""
    return rgb if valid is None else np.where(valid[0].cpu().numpy()[..., None], rgb, np.uint8(GREY))


def colour_map(value: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    """value [H, W] as uint8 RGB [H, W, 3], low..high over matplotlib's colour map `name`; NaN is grey."""
    from matplotlib import colormaps  # half a second that only pictures should cost

    scaled = (value - low) / max(high - low, 1e-12)
    rgb = colormaps[name](np.clip(np.nan_to_num(scaled), 0, 1), bytes=True)[..., :3]
    return np.where(np.isnan(value)[..., None], np.uint8(GREY), rgb)
