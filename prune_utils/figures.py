"""How every figure looks: colours, ink, plain axes, names of layers.

Colours are those of Okabe and Ito (2008), told apart by colour-blind readers; matplotlib's object interface
needs no display and no global state. matplotlib is imported where something is drawn: it is slow to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, DIM = "#222222", "#d9d9d9", "#555555"  # text and lines, grids and grounds, remarks
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5200", "#666666")
DPI = 120
WIDTH = 12.0  # inches of a full page


def new_figure(width: float, height: float, dpi: int = DPI, arrange: bool = True) -> Figure:
    """A light figure, sizes in inches. arrange: whether its axes are laid out without overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, hspace=0.04, wspace=0.03) if arrange else None
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white", layout=layout)
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, path: Path) -> Path:
    """The figure as a file, whole or not at all, in the format that the name's ending says (png without)."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png")
    return path


def plain_axes(axes: Axes, grid: Literal["x", "y"] | None = "y") -> None:
    """Dark labels, no box, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelcolor=INK)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=FAINT, linewidth=0.8)


def short_names(names: Sequence[str]) -> list[str]:
    """Layer names without the leading parts that all of them share."""
    parts = [name.split(".") for name in names]
    shared = 0
    while len(names) > 1 and all(len(part) > shared + 1 for part in parts):
        if len({part[shared] for part in parts}) > 1:
            break
        shared += 1
    return [".".join(part[shared:]) for part in parts]
