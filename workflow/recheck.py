"""Check a contract again: its network against its dense network, on any split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.text import table
from configs.schema import Contract

from .contract_report import fingerprint
from .experiment import Experiment
from .judging import Fall, Judge, broken, halves, look
from .networks import Saved, load_network, moved


def contract_files(path: Path, content: Mapping[str, Any]) -> tuple[Path, Path]:
    """The network and the dense network of a contract: where its certificate says, or else beside it.

    FileNotFoundError for one that is gone.
    """
    found = []
    for what in ("network", "dense"):
        said = Path(str(content[what].get("file", "")))
        places = path.parent / said, path.parent / said.name  # an absolute path stays what it is
        file = next((f for f in places if f.is_file()), None)
        if file is None:
            raise FileNotFoundError(f"there is no file {said}, the {what} of {path}, nor beside it")
        found.append(file)
    return found[0], found[1]


def recheck(
    experiment: Experiment, saved: Saved, dense: Path, content: Mapping[str, Any], split: str
) -> tuple[str, str | None]:
    """A table of drops on a split against the limits, and one sentence where a limit is broken.

    On the validation split the images are those of the certificate, which the search has never seen. Raises
    ValueError where a network is not the certificate's, or its tasks are not those of the limits.
    """
    before = load_network(experiment, dense)
    for what, one in (("network", saved), ("dense", before)):
        if fingerprint(one.network.state_dict()) != content[what].get("sha256"):
            raise ValueError(f"{one.path} is not the {what} that the certificate is of: its weights differ")
    limits: dict[str, float] = content["limits"]
    for name in limits:
        task, _, measure = name.partition(".")
        known = experiment.tasks.get(task)
        if known is None or (measure and measure not in known.directions):
            raise ValueError(f"the certificate limits '{name}', which this network does not have")
    places = None
    if split == "val":
        images, known = len(experiment.records(split)), content["validation"]
        counted = sum(known[half]["images"] for half in ("search", "certificate"))
        if images != counted:
            raise ValueError(
                f"there are {images} validation images, and the contract was made with {counted}: which of "
                "them the search has seen cannot be told; check it on another --split"
            )
        places = halves(images, content["seed"])[1]
    settings = Contract(level=content["level"], resamples=content["resamples"])
    there = look(experiment, moved(experiment, before.network), split, places)
    judge = Judge(limits, experiment.tasks, there, experiment.config.run.protocol, settings, content["seed"])
    falls = judge.falls(look(experiment, moved(experiment, saved.network), split, places))
    images = len(places) if places is not None else len(experiment.records(split))
    return _shown(falls, limits, settings.level, split, images), _broken(falls, limits, split, images)


def _shown(
    falls: Mapping[str, Fall], limits: Mapping[str, float], level: float, split: str, images: int
) -> str:
    rows = [
        [
            name,
            "-" if limit == math.inf else f"{limit:.3f}",
            f"{fall.drop:.3f}",
            f"{fall.bound:.3f}",
            _word(fall, limit),
        ]
        for name, limit in limits.items()
        for fall in [falls[name]]
    ]
    said = f"{images} images of {split}; bounds are one-sided, at level {level:g}"
    return table(rows, ("lost, %", "limit", "drop", "at most", "")) + f"\n{said}"


def _word(fall: Fall, limit: float) -> str:
    if fall.bound <= limit:
        return "kept"
    return "not certain" if fall.drop <= limit else "broken"


def _broken(falls: Mapping[str, Fall], limits: Mapping[str, float], split: str, images: int) -> str | None:
    names = broken(falls, limits)
    if not names:
        return None
    name = names[0]
    fall, limit = falls[name], limits[name]
    return (
        f"the contract is {'not certain' if fall.drop <= limit else 'broken'} on {split}: '{name}' loses "
        f"{fall.drop:.3g} %, at most {fall.bound:.3g} %, of {images} images, and its limit is {limit:g} %"
    )
