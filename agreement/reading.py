"""Agreement files read again: every field that tables and pictures use is checked first.

A shape is a function that complains about a value, a list of one shape for each item, or a dictionary of the
fields that must be there; further fields are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.files import read_json


def _text(value: object) -> str:
    return "" if isinstance(value, str) and value and value.isprintable() else "a text"


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _count(value: object) -> str:
    return "" if type(value) is int and 0 <= value < 2**63 else "a whole number of at least 0"


def _share(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return "" if number else "a share from 0 to 1"


def _maybe(shape: Callable[[object], str]) -> Callable[[object], str]:
    return lambda value: "" if value is None else shape(value)


SPREAD = dict.fromkeys(("mean", "low", "high"), _maybe(_share))  # None where no task keeps a weight
LAYER = SPREAD | {"chance": _maybe(_share)}
MATRIX = [[_maybe(_share)]]
SHAPE = {
    "dataset": _text,
    "tasks": [_text],
    "seeds": [_count],
    "layers": [{"name": _text, "stage": _text, "shortcut": _flag}],
    "curves": [
        {
            "keep_ratio": _share,
            "sparsity": _share,
            "overall": SPREAD,
            "chance": _maybe(_share),
            "layers": [LAYER],
            "pairs": {"tasks": [_text], "overall": MATRIX, "stages": {}},
            "density": {},
            "watershed": {
                "layer": _maybe(_text),
                "confidence": _share,
                "branch_after": _maybe(_text),
            },
        }
    ],
}


def read_result(path: str | Path) -> dict[str, Any]:
    """An agreement file as iou_analysis.py writes it; ValueError names the first field that is not right."""
    result = read_json(Path(path))
    lacking = [name for name in ("curves", "layers") if not isinstance(result, dict) or name not in result]
    if lacking:
        raise ValueError(
            f"{path} is not an agreement file, without '{lacking[0]}': iou_analysis.py writes them"
        )
    try:
        _check(result, SHAPE, "")
        for number, curve in enumerate(result["curves"]):
            _fit(curve, result, f"curves.{number}")
    except ValueError as error:
        raise ValueError(f"{path} is a damaged agreement file: {error}") from None
    return result


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"field '{where}' is {_kind(value)}, not an object")
        for name, part in shape.items():
            if name not in value:
                raise ValueError(f"it lacks the field '{_below(where, name)}'")
            _check(value[name], part, _below(where, name))
    elif isinstance(shape, list):
        if not isinstance(value, list) or not value:
            raise ValueError(f"field '{where}' is {_kind(value)}, not a list of values")
        for number, item in enumerate(value):
            _check(item, shape[0], _below(where, str(number)))
    elif wanted := shape(value):
        raise ValueError(f"field '{where}' is {_kind(value)}, not {wanted}")


def _fit(curve: dict[str, Any], result: dict[str, Any], where: str) -> None:
    """ValueError unless a curve speaks of the tasks and layers of its file."""
    tasks, pairs = result["tasks"], curve["pairs"]
    if len(curve["layers"]) != len(result["layers"]):
        raise ValueError(f"field '{where}.layers' has not one value for each of the file's layers")
    if pairs["tasks"] != tasks:
        raise ValueError(f"field '{where}.pairs.tasks' are other tasks than the file's")
    if set(curve["density"]) != set(tasks):
        raise ValueError(f"field '{where}.density' is of other tasks than the file's")
    for task, layers in curve["density"].items():
        if not isinstance(layers, dict):
            raise ValueError(f"field '{where}.density.{task}' is {_kind(layers)}, not an object")
        for share in layers.values():
            _check(share, _share, f"{where}.density.{task}")
    if set(pairs["stages"]) != {row["stage"] for row in result["layers"]}:
        raise ValueError(f"field '{where}.pairs.stages' are other stages than those of the layers")
    for name, matrix in [("overall", pairs["overall"]), *pairs["stages"].items()]:
        place = f"{where}.pairs.{name}" if name == "overall" else f"{where}.pairs.stages.{name}"
        _check(matrix, MATRIX, place)
        if [len(row) for row in matrix] != [len(tasks)] * len(tasks):
            raise ValueError(f"field '{place}' is not a matrix of the file's tasks")


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _kind(value: object) -> str:
    """What a value is, short and fit for a terminal."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return "nothing" if value is None else ascii(value)[:40]
