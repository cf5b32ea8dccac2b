"""Inner products of the tasks' gradients (they live in the library, whose voters need them too)."""

from prune_utils.gramian import cosines, gramian

__all__ = ["cosines", "gramian"]
