"""A measure means something only beyond the best constant answer: the same output at every pixel."""

from __future__ import annotations

MARK = "†"
NOTE = f"{MARK} no better than the best constant answer, one output for every pixel, chosen for that measure"
ROUNDING = 1e-6  # relative; sums in another order differ by less


def beats(value: float, constant: float, larger: bool) -> bool:
    """Whether a score is better than the constant's; True where either is nan: nothing can be said."""
    gain = (value - constant) * (1 if larger else -1)
    return not gain <= ROUNDING * abs(constant)
