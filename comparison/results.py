"""Result files, as eval_pruned_net.py writes them, and which of them may stand in one table.

Reads every *.json below the given folders that holds metrics; others, agreement files say, are passed over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.choices import printable
from common.files import read_json
from common.names import BASELINE, PROTOCOLS, ratio_text
from configs.load import result_settings

DENSE = "dense"
APART = ("dataset", "protocol", "split", "ratio")  # what one table must not mix unless told to
SEED = ("run.seed",)  # what alone legitimately differs within a row of a table
ROWS_OWN = ("prune", *SEED)  # and between its rows: a section, and the seeds that it averages over


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
    not told. images: how many there are to be scored, and the first; step: of the weights; None = not told.
    made: what trained and scored it, as far as it is told (MADE).
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
    images: tuple[int, str] | None = None
    step: int | None = None
    made: dict[str, str] = dataclasses.field(default_factory=dict)
    constant: dict[str, dict[Column, float]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the experiment: that of its result file without the split (common.names.result_file)."""
        return self.path.stem.removesuffix("" if self.split == "test" else f"_{self.split}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that it has measures of."""
        columns = (column for of in self.values.values() for column in of)
        return tuple(dict.fromkeys(column.task for column in columns))

    @property
    def width(self) -> float:
        """Factor on the network's hidden widths; 1 where the file does not tell."""
        width = self.settings.get("model", {}).get("width", 1.0)
        return float(width) if isinstance(width, int | float) else 1.0


def read_results(folders: Iterable[str | Path], empty: bool = False) -> list[Result]:
    """Every result below the folders. FileNotFoundError or ValueError: missing, damaged, double or none.

    empty: whether there may be none."""
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
    if not found and not empty:
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
    except ValueError as error:
        raise ValueError(f"{path} is a damaged result file: {error}") from None


def _result(path: Path, content: dict) -> Result:
    dataset, method = _word(content, "dataset"), _word(content, "method")
    ratio = None if method == BASELINE else _number(content, "config", "prune", "ratio")
    settings = {section: dict(_table(content, "config", section)) for section in _table(content, "config")}
    if ratio is not None and not 0 <= ratio <= 100:
        raise ValueError(f"field 'config.prune.ratio' holds {ratio:g}, not a percentage")
    columns = {
        (task, metric): Column(
            task,
            metric,
            _word(content, "directions", task, metric, "unit", empty=True),
            _of(content, bool, "true or false", "directions", task, metric, "larger_is_better"),
        )
        for task in _table(content, "directions")
        for metric in _table(content, "directions", task)
    }
    values = {
        protocol: {
            column: _number(content, "metrics", task, protocol, metric, least=-math.inf, null=math.nan)
            for (task, metric), column in columns.items()
        }
        for protocol in PROTOCOLS
    }
    return Result(
        path=path,
        dataset=dataset,
        method=method,
        label=label_of(_word(content, "name"), dataset, method, ratio),
        ratio=ratio,
        protocol=_word(content, "protocol"),
        split=_word(content, "split"),
        seed=_seed(content),
        density=_density(content, method == BASELINE),
        values=values,
        settings=settings,
        notes=_notes(content),
        constant=_constants(content, columns.values()),
        images=_images(content),
        step=None if content.get("step") is None else _of(content, int, "a whole number", "step"),
        made=_made(content),
        remarks=None if content.get("remarks") is None else _lines(content, "remarks"),
    )


# what rows of one seed should have in common to be compared
MADE = ("device", "torch", "instructions", "engine", "precision", "weights")


def _images(content: dict) -> tuple[int, str] | None:
    if content.get("samples") is None or content.get("first_sample") is None:
        return None
    return _of(content, int, "a whole number", "samples"), _word(content, "first_sample")


def _made(content: dict) -> dict[str, str]:
    """By name in MADE; files that do not tell what trained the weights tell what scored them."""
    told: dict[str, str] = {}
    for table in ("versions", "evaluated", "weights_versions"):
        if content.get(table) is not None:
            told |= {name: _word(content, table, name) for name in _table(content, table) if name in MADE}
    told |= {name: _word(content, name) for name in ("engine", "weights") if content.get(name) is not None}
    if "weights" in told:  # of the training: the file of create_pruned_net.py has none
        kind = told["weights"].partition("_")[0]
        told["weights"] = kind if kind in ("best", "final") else "as named"
    return told


def _constants(content: dict, columns: Iterable[Column]) -> dict[str, dict[Column, float]]:
    """Scores of the best constant answers, as values of a Result; nothing where a file has none."""
    found: dict[str, dict[Column, float]] = {protocol: {} for protocol in PROTOCOLS}
    tasks = {} if content.get("constant") is None else _table(content, "constant")
    for column in columns:
        if column.task not in tasks:
            continue
        for protocol in _table(content, "constant", column.task):
            keys = ("constant", column.task, protocol)
            if protocol in found and _table(content, *keys).get(column.metric) is not None:
                found[protocol][column] = _number(content, *keys, column.metric, least=-math.inf)
    return found


def _density(content: dict, dense: bool) -> float:
    """The share of weights that is kept, of parameters where channels were removed; a sparse network without
    a certificate says nothing of it."""
    if _field(content, "certificate") is None:
        return 1.0 if dense else math.nan
    density = _number(content, "certificate", "density")
    if density > 1:
        raise ValueError(f"field 'certificate.density' holds {density:g}, not a share of the weights")
    if "removed" in _table(content, "certificate"):
        left, whole = (
            _number(content, "certificate", "removed", when, "params") for when in ("after", "before")
        )
        return density * min(1.0, left / whole) if whole else math.nan
    return density


def _seed(content: dict) -> int:
    seed = _of(content, int, "a whole number", "seed")
    if not 0 <= seed < 2**63:
        raise ValueError(f"field 'seed' holds {seed:.3g}, not a seed")
    return seed


def _notes(content: dict) -> tuple[str, ...]:
    notes = _lines(content, "notes") if "notes" in content else ()
    return tuple(note for note in notes if note.split(":")[0] in content["metrics"])


def _lines(content: dict, field: str) -> tuple[str, ...]:
    lines = content[field]
    if not isinstance(lines, list) or not all(isinstance(line, str) and line.isprintable() for line in lines):
        raise ValueError(f"field '{field}' is not a list of lines")
    return tuple(lines)


def _field(content: dict, *keys: str) -> Any:
    """What stands under these keys; ValueError names the first that is not there."""
    value: Any = content
    for depth, key in enumerate(keys):
        if not isinstance(value, dict):
            raise ValueError(f"field '{_said(keys[:depth])}' is {_kind(value)}, not an object with '{key}'")
        if key not in value:
            raise ValueError(f"it lacks the field '{_said(keys[: depth + 1])}'")
        value = value[key]
    return value


def _of(content: dict, kind: type, words: str, *keys: str) -> Any:
    value = _field(content, *keys)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"field '{_said(keys)}' is {_kind(value)}, not {words}")
    return value


def _table(content: dict, *keys: str) -> dict[str, Any]:
    table = _of(content, dict, "an object", *keys)
    for key in table:
        if not key.isprintable():
            raise ValueError(f"field '{_said(keys)}' has the name {printable(key)[:40]!r} in it")
    return table


def _number(content: dict, *keys: str, least: float = 0.0, null: float | None = None) -> float:
    """A finite number of at least `least`. null: what null stands for, None = it may not."""
    value = _field(content, *keys)
    if value is None and null is not None:
        return null
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"field '{_said(keys)}' is {_kind(value)}, not a number")
    if not (least <= value < 1e300 and value > -1e300):
        raise ValueError(f"field '{_said(keys)}' holds {value!r:.40}, not a number of use here")
    return float(value)


def _word(content: dict, *keys: str, empty: bool = False) -> str:
    word = _of(content, str, "a text", *keys)
    if not word.isprintable() or not (word or empty):
        raise ValueError(f"field '{_said(keys)}' holds {printable(word)[:40]!r}, not a word")
    return word


def _said(keys: Iterable[str]) -> str:
    return printable(".".join(keys))[:120]


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")


def label_of(name: str, dataset: str, method: str, ratio: float | None) -> str:
    """The method with its variant, `disparse_static:rounds=12`; an experiment's own name as it is."""
    if name == f"{dataset}_{BASELINE}" and method == BASELINE:
        return DENSE
    middle = name.removeprefix(f"{dataset}_")
    if ratio is not None:
        endings = f"_{ratio_text(ratio)}", f"_{ratio:g}"  # the second: of earlier versions
        middle = middle.removesuffix(next(filter(middle.endswith, endings), ""))
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


def refuse_other_images(results: Iterable[Result]) -> None:
    """ValueError for scores of one split of a data set that are of other images."""
    seen: dict[tuple, Result] = {}
    for result in results:
        if result.images is not None:
            other = seen.setdefault((result.dataset, result.split, result.tasks), result)
            if other.images != result.images:
                said = [
                    f"{r.path} of {r.images[0]} from {r.images[1]} on" for r in (other, result) if r.images
                ]
                raise ValueError(f"scores of other images do not stand side by side: {', '.join(said)}")


def differing_machines(results: Iterable[Result]) -> list[str]:
    """In what results of one seed differ that were to be compared, as `device (cpu, cuda): seeds 2, 5`."""
    seen: dict[tuple[str, int], set[str]] = {}
    for result in results:
        for name, value in result.made.items():
            seen.setdefault((name, result.seed), set()).add(value)
    lines = []
    for name in MADE:
        values = {seed: of for (what, seed), of in seen.items() if what == name and len(of) > 1}
        if values:
            kinds, seeds = sorted(set().union(*values.values())), ", ".join(map(str, sorted(values)))
            lines.append(f"{name} ({', '.join(kinds)}): seed{'s' * (len(values) > 1)} {seeds}")
    return lines


def differing_settings(results: Iterable[Result], apart: Sequence[str] = ROWS_OWN) -> list[str]:
    """Settings in which the results differ, as `section.field (values)`. apart: sections and settings that
    may."""
    seen: dict[str, set[str]] = {}
    for result in results:
        for section, fields in result_settings(result.settings).items():
            for field, value in fields.items() if section not in apart else ():
                if f"{section}.{field}" not in apart:
                    seen.setdefault(f"{section}.{field}", set()).add(str(value))
    return [f"{name} ({', '.join(sorted(values))})" for name, values in seen.items() if len(values) > 1]


def differing_pruning(results: Iterable[Result]) -> list[str]:
    """Settings of pruning in which the seeds of one row differ, as `label at ratio: prune.field (values)`."""
    rows: dict[tuple, list[Result]] = {}
    for result in results:
        if result.ratio is not None:  # a dense network is not pruned
            marks = tuple(getattr(result, field) for field in APART)
            rows.setdefault((result.label, *marks), []).append(result)
    lines = []
    for (label, *_), members in rows.items():
        found = [name for name in differing_settings(members, SEED) if name.startswith("prune.")]
        if found:
            lines.append(f"{label} at {members[0].ratio:g} %: {', '.join(found)}")
    return lines


def _distinct(results: list[Result], field: str) -> list:
    return sorted({getattr(result, field) for result in results} - {None})


def _choices(results: list[Result], field: str) -> str:
    return ", ".join(map(_text, _distinct(results, field))) or "none"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
