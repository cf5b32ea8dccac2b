"""What a granularity fixes (it lives in the library, which cuts weights into units)."""

from prune_utils.ratios import CHOICES, fixed_ratio

__all__ = ["CHOICES", "fixed_ratio"]
