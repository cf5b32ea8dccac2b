"""Whether the images that are to judge a network are such that it was not trained on."""

from __future__ import annotations

from dataloaders.index import read_index

from .experiment import Experiment
from .networks import Saved


def has_split(experiment: Experiment, split: str) -> bool:
    """Whether the index names a split."""
    dataset, data = experiment.dataset, experiment.config.data
    return split in read_index(data.root, dataset.index_file, dataset.how_to_get)


def check_unseen(experiment: Experiment, saved: Saved, advice: str) -> None:
    """ValueError where validation images are taken from `train` and the network was trained on some of them.

    advice: what the sentence ends with. A file that does not tell its share has left nothing out.
    """
    if has_split(experiment, "val"):
        return
    asked = experiment.config.data.val_fraction
    made = float((saved.content.get("config") or {}).get("data", {}).get("val_fraction", 0.0))
    if not made:
        raise ValueError(
            f"{saved.path} was trained on all of split 'train', and the index has no split 'val' to judge "
            f"it by: {advice}"
        )
    if made < asked:  # held-out images are the first of one order: less is part of more
        raise ValueError(
            f"{saved.path} was trained with --val-share {made:g}, so on images that --val-share {asked:g} "
            f"would judge it by: ask for no more than it left out, or {advice}"
        )
