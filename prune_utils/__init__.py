"""Make any multitask network sparse: score, choose, mask, regrow, report.

Works on a plain `torch.nn.Module`: it needs named parameters, one loss per task and the names of the weights
that each task owns. Names are imported when they are first used, so that `import prune_utils` costs no torch
import.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "budgets": "Budget Pool erk_budget global_budget keep_count make_budget uniform_budget BUDGETS",
    "ascent": "Ascent Round Trial search size_ladder",
    "arbiters": "ARBITERS Arbiter arbitrate weighted",
    "choosing": "choose keep_by_ratio",
    "bootstrap": "Bootstrap",
    "contracts": "Contract contract",
    "courses": "COURSES Course make_sparsifier",
    "criteria": "CRITERIA Criterion",
    "covering": "Coverage coverage prunable weight_shapes",
    "gradual": "Gradual Pace make_pace",
    "fan_in": "FanInRegrowth",
    "granularity": "Grain Granularity find_granularity",
    "latencies": "faster_sizes",
    "measures": "Measure Survey",
    "top_kast": "TopKast",
    "masked": "Masked",
    "masks": "Mask Scores apply count dense_mask mask_hash shuffle_within_layers size",
    "multiply_adds": "weight_uses",
    "methods": "METHODS Method method",
    "plan": "Plan make_plan xavier_copy",
    "prune": "make_mask",
    "ranking": "rank_fractions share_fractions",
    "regrow": "Growth Regrowth Schedule make_schedule",
    "registering": "load_plugin register",
    "removing": "Removal",
    "shrinking": "remove_channels",
    "report": "certificate format_certificate",
    "rounds": "Rounds geometric_keeps progressive",
    "scoring": "score",
    "sparse": "sparsify",
    "sparse_file": "SparseFile load_sparse read_sparse save_sparse",
    "verifying": "verify",
    "weightings": "WEIGHTINGS Solver Weighting weighted_voter",
    "voters": "Electorate Ownership Voter joint_voter owners_from_graph task_voters",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'prune_utils' has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
