"""Conventions of the data sets' owners that several writers share: names, class groups, class weights."""

from __future__ import annotations

import numpy as np

UNKNOWN = -1  # depth or disparity, as some converters write it
# Cityscapes' 19 train ids by group: flat, construction, object, nature, sky, human, vehicle
TO_7 = (0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 5, 6, 6, 6, 6, 6, 6)
# background (all that stands), foreground (human, vehicle)
TO_2 = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)


def coarser(label: np.ndarray, groups: tuple[int, ...]) -> np.ndarray:
    """int8 labels of fewer classes; -1 stays -1."""
    return np.array([*groups, -1], np.int8)[label]  # -1 picks the last


def check_not_negative(stored: np.ndarray, lowest: float, what: str) -> None:
    """ValueError for what is below 0 and not -1. lowest: of the stored numbers, none of which is NaN."""
    if lowest < 0:
        wrong = stored[(stored < 0) & (stored != UNKNOWN)]
        if wrong.size:
            raise ValueError(f"holds {wrong[0]:g} where {what} belongs, 0 or {UNKNOWN} (unknown) or above")


def median_frequency(counts: np.ndarray) -> np.ndarray:
    """Weight of each class, float32: median of the classes' frequencies / its own; 1 for a class never seen.

    counts: labelled pixels of each class.
    """
    seen = counts > 0
    if not seen.any():
        raise ValueError("no training label holds a class: all pixels are void")
    weights = np.ones(len(counts), np.float32)
    weights[seen] = np.median(counts[seen]) / counts[seen]
    return weights


def official_name(stem: str, domain: str) -> str:
    """Name of a Taskonomy file, for example point_0_view_0_domain_rgb.png."""
    return f"{stem}_domain_{domain.replace('segment_semantic', 'segmentsemantic')}.png"
