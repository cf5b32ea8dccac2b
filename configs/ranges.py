"""The range of every setting that has one."""

from __future__ import annotations

from math import inf

from common.names import PROTOCOLS

from .schema import Config

# setting -> (does it hold, what it must be)
RULES = {
    "run.protocol": (lambda value: value in PROTOCOLS, " or ".join(PROTOCOLS)),
    # streams of chance are numbered seed * 4e9 + step, below 2 ** 64
    "run.seed": (lambda value: 0 <= value < 2**32, "from 0 to 4294967295"),
    "run.eval_every": (lambda value: value >= 1, "at least 1"),
    "run.log_every": (lambda value: value >= 1, "at least 1"),
    "run.checkpoint_every": (lambda value: value >= 1, "at least 1"),
    "data.tasks": (lambda value: len(value) >= 1, "at least one task"),
    "data.batch_size": (lambda value: value >= 1, "at least 1"),
    "data.eval_batch_size": (lambda value: value >= 1, "at least 1"),
    "data.num_workers": (lambda value: value >= 0, "at least 0"),
    "data.skip_unreadable": (lambda value: value >= 0, "at least 0"),
    "data.crop": (lambda value: value >= 16, "at least 16 pixels"),
    "data.size": (lambda value: value is None or value >= 16, "at least 16 pixels"),
    "data.classes": (lambda value: value >= 2, "at least 2"),
    "data.mirror": (lambda value: 0 <= value <= 1, "a probability"),
    "data.scale": (
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] < inf,
        "two factors, smaller first",
    ),
    "data.val_fraction": (lambda value: 0 < value < 1, "between 0 and 1"),
    "optim.lr": (lambda value: 0 < value < inf, "above 0 and finite"),
    "optim.weight_decay": (lambda value: 0 <= value < inf, "at least 0 and finite"),
    "optim.iterations": (lambda value: value >= 1, "at least 1 (--max-iters)"),
    "optim.step_every": (lambda value: value >= 1, "at least 1"),
    "optim.step_factor": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "optim.accumulate": (lambda value: value >= 1, "at least 1"),
    "finetune.iterations": (lambda value: value >= 1, "at least 1 (--max-iters)"),
    "finetune.lr": (lambda value: 0 < value < inf, "above 0 and finite"),
    "prune.ratio": (lambda value: 0 <= value < 100, "a percentage from 0 to below 100"),
    "prune.keep_ratio": (lambda value: value is None or 0 < value <= 1, "above 0 and at most 1"),
    "prune.num_batches": (lambda value: value >= 1, "at least 1"),
    "prune.batch_size": (lambda value: value is None or value >= 1, "at least 1"),
    "prune.rounds": (lambda value: value is None or value >= 1, "at least 1"),
    "prune.round_iterations": (lambda value: value >= 1, "at least 1"),
    "prune.rewind_step": (lambda value: value >= 0, "at least 0"),
    "prune.score_init": (lambda value: value in ("xavier", "own"), "xavier or own"),
    "prune.scope": (lambda value: value in ("all", "backbone"), "all or backbone"),
    "dynamic.every": (lambda value: 0 < value < inf, "above 0 and finite"),
    "dynamic.until": (lambda value: 0 < value < inf, "above 0 and finite"),
    "dynamic.fraction": (lambda value: 0 <= value <= 1, "between 0 and 1"),
}


def check(config: Config) -> Config:
    """The same Config, or ValueError for the first value outside its range."""
    for path, (holds, wanted) in RULES.items():
        section, field = path.split(".")
        value = getattr(getattr(config, section), field)
        if not holds(value):
            raise ValueError(f"setting '{path}' is {value}, it must be {wanted}")
    for task, weight in config.loss_weights.items():
        if not 0 <= weight < inf:
            raise ValueError(f"setting 'loss_weights.{task}' is {weight}, it must be at least 0 and finite")
    return config
