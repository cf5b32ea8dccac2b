"""Result files, as eval_pruned_net.py writes them, and which of them may stand in one table.

Reads every *.json below the given folders that holds metrics; others, agreement files say, are passed over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.files import read_json
from common.names import BASELINE, PROTOCOLS
from configs.load import result_settings

DENSE = "dense"
APART = ("dataset", "protocol", "split", "ratio")  # what one table must not mix unless told to
# what legitimately differs between the rows of a table: a section, and the seeds that it averages over
ROWS_OWN = ("prune", "run.seed")


class Column(NamedTuple):
    """A measure of a task. unit: "%", "deg" or another word; larger: whether more is better."""

    task: str
    metric: str
    unit: str
    larger: bool


@dataclass(frozen=True)
class Result:
    """One evaluated network. ratio: sparsity asked for, None for the dense network; density: as it is.

    values: metric protocol -> column -> value, nan where the file holds null. notes: what a reader of a
    task's scores must know, "sn: ...". constant: as values, of the best constant
    answers; older files have none. remarks: what sets its data and network apart, None = it is
    not told.
    """

    path: Path
    dataset: str
    method: str
    label: str
    ratio: float | None
    protocol: str
    split: str
    seed: int
    density: float
    values: dict[str, dict[Column, float]]
    settings: dict[str, dict]
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] | None = None
    constant: dict[str, dict[Column, float]] = dataclasses.field(default_factory=dict)


def read_results(folders: Iterable[str | Path]) -> list[Result]:
    """Every result below the folders. FileNotFoundError or ValueError: missing, damaged, double or none."""
    found: dict[tuple, Result] = {}
    places = [Path(folder) for folder in folders]
    for folder in places:
        if not folder.exists():
            raise FileNotFoundError(f"there is no folder {folder} to collect results from")
        for path in sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]:
            result = read_result(path)
            if result is None:
                continue
            key = (result.dataset, result.label, result.ratio, result.protocol, result.split, result.seed)
            other = found.setdefault(key, result)
            if other.path.resolve() != path.resolve():
                raise ValueError(f"{other.path} and {path} are both {result.label} with seed {result.seed}")
    if not found:
        raise ValueError(
            f"no result lies below {', '.join(map(str, places))}: eval_pruned_net.py writes them"
        )
    return list(found.values())


def read_result(path: Path) -> Result | None:
    """The result that a file holds; None if it is something else. ValueError if it cannot be read."""
    content = read_json(path)
    if not isinstance(content, dict) or not {"metrics", "directions", "method"} <= set(content):
        return None
    try:
        return _result(path, content)
    except KeyError as error:
        raise ValueError(f"{path} is a result file without {error}") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} is a damaged result file ({error})") from None


def _result(path: Path, content: dict) -> Result:
    dense = content["method"] == BASELINE
    ratio = None if dense else float(content["config"]["prune"]["ratio"])
    certificate = content["certificate"]
    columns = {
        (task, metric): Column(task, metric, direction["unit"], direction["larger_is_better"])
        for task, measures in content["directions"].items()
        for metric, direction in measures.items()
    }
    values = {
        protocol: {
            column: _number(content["metrics"][task][protocol][metric])
            for (task, metric), column in columns.items()
        }
        for protocol in PROTOCOLS
    }
    constant = {
        protocol: {
            column: _number(value)
            for (task, metric), column in columns.items()
            for value in [blind.get(task, {}).get(protocol, {}).get(metric)]
            if value is not None
        }
        for blind in [content.get("constant") or {}]
        for protocol in PROTOCOLS
    }
    return Result(
        path=path,
        dataset=_word(content, "dataset"),
        method=_word(content, "method"),
        label=_label(_word(content, "name"), content["dataset"], content["method"], ratio),
        ratio=ratio,
        protocol=_word(content, "protocol"),
        split=_word(content, "split"),
        seed=int(content["seed"]),
        density=float(certificate["density"]) if certificate else (1.0 if dense else math.nan),
        values=values,
        settings={section: dict(fields) for section, fields in content["config"].items()},
        notes=tuple(note for note in content.get("notes", ()) if note.split(":")[0] in content["metrics"]),
        constant=constant,
        remarks=tuple(map(str, content["remarks"])) if isinstance(content.get("remarks"), list) else None,
    )


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is not a number")
    return float(value)


def _word(content: Mapping, field: str) -> str:
    value = content[field]
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"its field {field} holds {value!r:.40}")
    return value


def _label(name: str, dataset: str, method: str, ratio: float | None) -> str:
    """The method with its variant, `disparse_static:rounds=12`; an experiment's own name as it is."""
    if name == f"{dataset}_{BASELINE}" and method == BASELINE:
        return DENSE
    middle = name.removeprefix(f"{dataset}_").removesuffix("" if ratio is None else f"_{ratio:g}")
    return middle.replace("+", ":") if middle.startswith(method) else name


def select(results: list[Result], wanted: dict[str, object]) -> list[Result]:
    """The results with these fields (None = any); dense networks belong to every ratio.

    Raises ValueError with the choices if none is left.
    """
    for field, value in wanted.items():
        if value is None:
            continue
        kept = [r for r in results if getattr(r, field) == value or (field == "ratio" and r.ratio is None)]
        if not any(getattr(result, field) == value for result in kept):
            raise ValueError(f"no result has {field} {_text(value)}, there are {_choices(results, field)}")
        results = kept
    return results


def mixed(results: list[Result]) -> list[str]:
    """Fields among APART in which the results differ."""
    return [field for field in APART if len(_distinct(results, field)) > 1]


def refuse_mixtures(results: list[Result], allowed: Iterable[str]) -> None:
    """ValueError if the results differ in a field that is not allowed to."""
    for field in mixed(results):
        if field not in allowed:
            first = _text(_distinct(results, field)[0])
            raise ValueError(
                f"a table does not mix {field}s, and these results have {_choices(results, field)}: "
                f"--{field} {first} chooses, --mix {field} puts them side by side"
            )


def differing_settings(results: list[Result]) -> list[str]:
    """Settings, but those of pruning, in which the results differ, as `section.field (values)`."""
    seen: dict[str, set[str]] = {}
    for result in results:
        for section, fields in result_settings(result.settings).items():
            for field, value in fields.items() if section not in ROWS_OWN else ():
                if f"{section}.{field}" not in ROWS_OWN:
                    seen.setdefault(f"{section}.{field}", set()).add(str(value))
    return [f"{name} ({', '.join(sorted(values))})" for name, values in seen.items() if len(values) > 1]


def _distinct(results: list[Result], field: str) -> list:
    return sorted({getattr(result, field) for result in results} - {None})


def _choices(results: list[Result], field: str) -> str:
    return ", ".join(map(_text, _distinct(results, field))) or "none"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
