"""Networks of other widths (it lives in the library, which removes channels)."""

from prune_utils.resizing import hollow, resize, runs

__all__ = ["hollow", "resize", "runs"]
