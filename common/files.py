"""Files that are written whole or not at all (they live in the library, which needs them too)."""

from prune_utils.files import PARTIAL, remove_partial, replacing

__all__ = ["PARTIAL", "remove_partial", "replacing"]
