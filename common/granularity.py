"""What a granularity fixes (it lives in the library, which cuts weights into units)."""

from prune_utils.ratios import CHOICES, NEEDS, RATIO_OF, fixed_ratio

__all__ = ["CHOICES", "NEEDS", "RATIO_OF", "fixed_ratio"]
