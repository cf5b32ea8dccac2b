"""For how many contracts the certificate's half of the validation images has been looked at.

A bound promises its level to one look. Whoever asks again after a refusal, with other settings, until one
passes, has the luck of every try: so each contract that looks is written down, a line in a file beside it,
and a certificate says how many others of the same dense network had looked before.
"""

from __future__ import annotations

import json
from pathlib import Path

from configs.load import as_tree, result_digest

from .experiment import Experiment


def looks_path(experiment: Experiment) -> Path:
    return experiment.dest / f"{experiment.config.data.dataset}_contract_looks.jsonl"


def check_looks(experiment: Experiment) -> None:
    """ValueError for a file that holds anything else."""
    _read(looks_path(experiment), "")


def note_look(experiment: Experiment, dense: str) -> int:
    """Write down that this contract looks, unless it did before; how many others had looked by then.

    dense: fingerprint of the dense network. Raises as `check_looks`.
    """
    path = looks_path(experiment)
    mine = f"{experiment.method} {result_digest(as_tree(experiment.config))}"
    seen = _read(path, dense)
    if mine in seen:
        return seen.index(mine)
    line = {"dense": dense, "contract": mine, "limits": list(experiment.config.contract.max_drop)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return len(seen)


def _read(path: Path, dense: str) -> list[str]:
    """The contracts of a dense network that have looked, in their order."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        seen = [(line["dense"], str(line["contract"])) for line in lines]
    except (ValueError, LookupError, TypeError, RecursionError, OSError):
        raise ValueError(
            f"{path} is not the list of contracts that have looked at validation images: move it away"
        ) from None
    return [contract for of, contract in seen if of == dense]
