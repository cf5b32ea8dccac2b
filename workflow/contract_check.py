"""What a contract refuses before any work: contradicting settings, validation images that say nothing, files
of another search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.names import BASELINE
from configs.load import load
from configs.schema import Config
from dataloaders import DATASETS
from dataloaders.index import read_index
from prune_utils.ascent import task_of
from prune_utils.bootstrap import KIND, check_level
from prune_utils.contracts import check_voted
from prune_utils.methods import Method
from prune_utils.plan import make_plan
from training.checkpoint import read_file

from .experiment import Experiment
from .files import Options
from .networks import Saved
from .unseen import check_unseen
from .weighting import check_weighting

MEAN_IOU = "mIoU"
LEAST_IMAGES = 8  # with a target of each task, in each half: fewer resample to hardly anything
ALONE: dict[str, tuple[Any, ...]] = {  # settings of a mask that the search makes itself -> what they may be
    "keep_ratio": (None,),
    "rounds": (None, 1),
    "arbiter": ("unanimous", "weighted"),
    "factors": ({},),
    "shuffle": (False,),
    "start_mask": (None,),
    "trunk_share": (None,),
}


def check_settings(experiment: Experiment, method: Method, options: Options) -> None:
    """ValueError for settings and flags that do not go together."""
    config = experiment.config
    if experiment.fabric.world_size > 1:
        raise ValueError("--max-drop works on one device: leave --devices out")
    for field, usual in ALONE.items():
        _require_unset(config, field, usual)
    if options.export_published:
        raise ValueError("--max-drop writes no published form: leave --export-published out")
    check_level(config.contract.level, config.contract.resamples)
    check_weighting(config)
    check_voted(method, make_plan(method, config.prune))
    _require_unset(config, "ratio", (load(config.data.dataset).prune.ratio,))


def _require_unset(config: Config, field: str, usual: tuple[Any, ...]) -> None:
    value = getattr(config.prune, field)
    if value not in usual:
        again = "null" if usual[0] is None else usual[0]
        raise ValueError(
            f"--max-drop decides itself what prune.{field} {value} says: leave it out, or --set "
            f"prune.{field}={again}"
        )


def read_state(path: Path) -> dict[str, Any]:
    """The search so far. ValueError for a file that is none, as those of earlier versions are."""
    content = read_file(path)
    lists = [content.get(name) for name in ("rounds", "trained")]
    known = isinstance(content.get("settings"), dict) and content.get("bound") == KIND
    if not known or not all(isinstance(of, list) for of in lists):
        raise ValueError(f"{path} is no state of a search of this version: --overwrite starts anew")
    return content


def require_dense(path: Path, fingerprint: str, known: object, what: str) -> None:
    """ValueError unless the dense network at `path` has the fingerprint that is known of a contract's.

    what: the words before, as `FILE is of`.
    """
    if known != fingerprint:
        raise ValueError(f"{what} another dense network than {path} is now: --overwrite starts anew")


def check_validation(
    experiment: Experiment, dense: Saved, limits: Mapping[str, float], halves: Sequence[Sequence[int]]
) -> None:
    """ValueError where the dense network has seen validation images, or a half holds too few of them."""
    check_val_share(experiment.config)
    again = experiment.command("launch_training.py", BASELINE)
    check_unseen(experiment, dense, f"train it with what is asked for, `{again}`")
    records = experiment.records("val")
    for task in experiment.tasks:
        limited = any(task_of(name) == task and limit < math.inf for name, limit in limits.items())
        for half in halves if limited else ():
            known = sum(task in records.planes(records.entries[place]) for place in half)
            if known < LEAST_IMAGES:
                raise ValueError(
                    f"half of the {len(records)} validation images holds {known} with a target of task "
                    f"'{task}', fewer than {LEAST_IMAGES}, and bounds nothing: where the index has no split "
                    "'val', a larger --val-share takes more (give it to the dense network's training too)"
                )


def check_val_share(config: Config) -> None:
    """ValueError for a share of the training images where the index names those for validation."""
    data, dataset = config.data, DATASETS[config.data.dataset]
    asked = data.val_fraction != load(dataset.name).data.val_fraction
    if asked and "val" in read_index(data.root, dataset.index_file, dataset.how_to_get):
        raise ValueError(
            "the index has a split 'val' of its own, which --val-share does not enlarge: leave it out"
        )


def forgiven(experiment: Experiment, limits: Mapping[str, float]) -> str:
    """The first limited measure that, under this protocol, a network does better in by giving classes up."""
    if experiment.config.run.protocol != "paper":
        return ""
    for name, limit in limits.items():
        task, _, measure = name.partition(".")
        if limit < math.inf and measure in ("", MEAN_IOU) and MEAN_IOU in experiment.tasks[task].directions:
            return f"{MEAN_IOU} of {task}"
    return ""
