"""How every figure looks (the style lives in the library, which draws too)."""

from prune_utils.figures import (
    COLOURS,
    DIM,
    FAINT,
    INK,
    WIDTH,
    new_figure,
    plain_axes,
    short_names,
    write_figure,
)

__all__ = [
    "COLOURS",
    "DIM",
    "FAINT",
    "INK",
    "WIDTH",
    "new_figure",
    "plain_axes",
    "short_names",
    "write_figure",
]
