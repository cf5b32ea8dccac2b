"""From YAML files, flags and `--set` to a Config. Unknown keys and wrong types end with the choices.

Order, later wins: the data set's YAML, each `--config` file, flags, each `--set section.field=value`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import yaml

from common.choices import not_one_of, printable
from common.granularity import fixed_ratio
from common.yaml_text import load_yaml, said_of

from .fields import Setting
from .schema import Config

LONGEST = 80  # letters of a value that a sentence shows
FOLDER = Path(__file__).parent
# a data set's name is that of its file; the other files are overlays, which name no data set
DATASETS = tuple(
    file.stem
    for file in sorted(FOLDER.glob("*.yaml"))
    if re.search(rf"\bdataset: *{file.stem}\b", file.read_text(encoding="utf-8"))
)
Tree = dict[str, typing.Any]


def read_yaml(path: Path) -> Tree:
    """A YAML file as nested dictionaries; FileNotFoundError or ValueError in one sentence."""
    path = _found(Path(path))
    if not path.is_file():
        choices = ", ".join(str(FOLDER.name + "/" + file.name) for file in sorted(FOLDER.glob("*.yaml")))
        raise FileNotFoundError(f"there is no configuration file {path} (this program brings {choices})")
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"configuration file {path} is not valid YAML{said_of(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"configuration file {path} must hold sections such as 'optim:', not a single value")
    return tree


def _found(path: Path) -> Path:
    """The path from where the user is, else, for `configs/tiny.yaml`, that of this program."""
    own = FOLDER.parent / path
    return own if not path.exists() and own.is_relative_to(FOLDER) and own.is_file() else path


def read_settings(path: Path) -> Tree:
    """A YAML file of settings under today's names. Raises as `read_yaml` does."""
    return _renamed(read_yaml(path))


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid over `base`, section by section."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def parse_assignments(assignments: typing.Iterable[str]) -> Tree:
    """["optim.lr=3e-4", ...] -> {"optim": {"lr": "3e-4"}}; values are YAML, so lists are [a, b]."""
    tree: Tree = {}
    for assignment in assignments:
        path, sign, text = assignment.partition("=")
        if not sign or not path.strip():
            raise ValueError(f"--set takes section.field=value, not '{assignment}'")
        try:
            value = load_yaml(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise ValueError(f"--set {assignment}: '{text}' is no valid value") from error
        for key in reversed(path.strip().split(".")):
            value = {key: value}
        tree = merge(tree, value)
    return tree


def _choices(key: str, where: str, known: typing.Iterable[str]) -> str:
    return not_one_of("setting", key, known, prefix=where)


def _convert(value: typing.Any, kind: typing.Any, where: str) -> typing.Any:
    """`value` as the annotated type `kind`; ValueError names the setting, the value and the type."""
    if is_dataclass(kind):
        return _build(value, kind, where + ".")
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return _convert(value, next(part for part in inside if part is not type(None)), where)
    if origin is tuple:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            parts = [parts]
        return tuple(_convert(part, inside[0], where) for part in parts)
    if origin is dict:
        if not isinstance(value, dict):
            raise ValueError(f"setting '{where}' needs names with values, not {quoted(value)}")
        return {str(key): _convert(part, inside[1], f"{where}.{key}") for key, part in value.items()}
    return _plain(value, kind, where)


def _plain(value: typing.Any, kind: type, where: str) -> typing.Any:
    wrong = ValueError(f"setting '{where}' needs {_NAMES[kind]}, not {quoted(value)}")
    if kind is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value).strip()
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise wrong
    if kind in (int, float) and not isinstance(value, bool) and isinstance(value, str | int | float):
        try:
            number = float(value)
        except ValueError:
            raise wrong from None
        if kind is float:
            return number
        if abs(number) < 1e15 and number == int(number):
            return int(number)
    raise wrong


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _build(tree: typing.Any, cls: typing.Any, where: str = "") -> typing.Any:
    if not isinstance(tree, dict):
        raise ValueError(f"setting '{where.rstrip('.')}' is a section with fields, not {quoted(tree)}")
    kinds = typing.get_type_hints(cls)
    for key in tree:
        if key not in kinds:
            raise ValueError(_choices(str(key), where, kinds))
    return cls(**{key: _convert(value, kinds[key], where + key) for key, value in tree.items()})


def _check(config: Config, given: Tree | None = None) -> Config:
    """The same Config, or ValueError for the first value outside its range; given: look at these alone."""
    for section, field, about in settings():
        value = getattr(getattr(config, section), field)
        looked_at = given is None or field in given.get(section, {})
        if looked_at and about.range and value is not None and not about.range.holds(value):
            hint = about.range.hint(value)
            raise ValueError(
                f"setting '{section}.{field}' is {shown(value)}, it must be {about.range.words}{hint}"
            )
    for task, weight in config.loss_weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"setting 'loss_weights.{task}' is {weight}, it must be at least 0 and finite")
    return config


def settings() -> typing.Iterator[tuple[str, str, Setting]]:
    """Every setting as (section, field, what is known about it); the weights of losses are none of them."""
    for section, kind in typing.get_type_hints(Config).items():
        for field in fields(kind) if is_dataclass(kind) else ():
            yield section, field.name, field.metadata.get("setting", Setting())


def _renamed(tree: Tree) -> Tree:
    """The tree with earlier names of settings replaced by today's."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for section, field, about in settings():
        for alias in about.aliases if isinstance(result.get(section), dict) else ():
            if alias in result[section]:
                result[section][field] = result[section].pop(alias)
    return result


def result_settings(tree: Tree) -> Tree:
    """The settings of a run that can change its result, complete and under today's names.

    tree: as `as_tree` gives it, also of an earlier version of this program: what it lacks had the value that
    is the default. Two runs with equal ones may be taken for each other.
    """
    return _chosen(tree, lambda about: about.changes_result)


def result_digest(tree: Tree) -> str:
    """16 hexadecimal digits of the settings that can change a result and are not the defaults, so that a
    setting that a later version brings changes nothing. tree: as of `result_settings`."""
    usual, given = result_settings({}), result_settings(tree)
    asked = {
        f"{section}.{field}": value
        for section, fields in given.items()
        for field, value in fields.items()
        if field not in usual[section] or usual[section][field] != value
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _chosen(tree: Tree, wanted: typing.Callable[[Setting], bool]) -> Tree:
    tree, default = _renamed(tree), asdict(Config())
    result: Tree = {"loss_weights": tree.get("loss_weights", {})}
    if not isinstance(result["loss_weights"], dict) or not _is_plain(result["loss_weights"]):
        raise ValueError(f"setting 'loss_weights' needs names with values, not {shown(tree['loss_weights'])}")
    for section, field, about in settings():
        given = tree.get(section, {})
        if not isinstance(given, dict):
            raise ValueError(f"setting '{section}' is a section with fields, not {shown(given)}")
        if wanted(about):
            value = given.get(field, default[section][field])
            if not _is_plain(value):
                raise ValueError(f"setting '{section}.{field}' is a {type(value).__name__}, no plain value")
            result.setdefault(section, {})[field] = list(value) if isinstance(value, tuple) else value
    return result


def _is_plain(value: object) -> bool:
    """Whether a value of somebody's file can be compared: a number, a text, nothing, or several of these."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def carried(tree: Tree) -> Tree:
    """The settings of a saved network that later commands take over: network, tasks, protocol, training.

    Left out is all that says where data lies or how a machine works: that is for each command to say.
    """
    return _chosen(tree, lambda about: about.changes_result if about.travels is None else about.travels)


def trained(tree: Tree) -> Tree:
    """The settings of a saved network that made it what it is: no evaluation of it changes them."""
    return _chosen(tree, lambda about: about.changes_result and not about.evaluated)


def overlay(dataset: str, files: typing.Iterable[str] = (), flags: Tree | None = None) -> Tree:
    """What files and flags say together, to be laid over the settings of a data set or of a saved network.

    ValueError for an unknown data set or setting, a wrong type, a value outside its range.
    """
    if dataset not in DATASETS:
        raise ValueError(not_one_of("dataset", dataset, DATASETS))
    tree: Tree = {}
    for file in files:
        tree = merge(tree, read_settings(Path(file)))
    tree = merge(tree, _renamed(flags or {}))
    _check(_build(tree, Config), tree)
    return tree


def load(
    dataset: str, files: typing.Iterable[str] = (), flags: Tree | None = None, base: Tree | None = None
) -> Config:
    """The Config of one run. flags: nested dictionary of what the command line said.

    base: settings of a saved network (`carried`), laid over those of the data set's YAML.
    """
    given = overlay(dataset, files, flags)
    tree = read_settings(FOLDER / f"{dataset}.yaml")
    if base is not None:
        tree = merge(tree, _renamed(base))
        tree["loss_weights"] = base.get("loss_weights", {})
    known = tree.get("loss_weights", {})
    config = _check(_build(_with_ratio(merge(tree, given)), Config))
    if config.data.dataset != dataset:
        raise ValueError(f"setting 'data.dataset' is {config.data.dataset!r}, the command is for {dataset}")
    choices = sorted({*known, *config.data.tasks})
    for task in config.loss_weights:
        if task not in choices:
            raise ValueError(_choices(task, "loss_weights.", choices))
    return config


def _with_ratio(tree: Tree) -> Tree:
    """The settings with the ratio that a granularity such as 2:4 fixes, where nobody said one."""
    pruning = tree.get("prune", {})
    fixed = fixed_ratio(str(pruning.get("granularity"))) if isinstance(pruning, dict) else None
    if fixed is None or "ratio" in pruning:
        return tree
    return merge(tree, {"prune": {"ratio": fixed}})


def shown(value: object) -> str:
    """A value of somebody's file for a sentence: never long, never what a terminal acts on."""
    return _clipped(str, value)


def quoted(value: object) -> str:
    """The same, texts with their quotes."""
    return _clipped(repr, value)


def _clipped(as_text: typing.Callable[[object], str], value: object) -> str:
    try:
        text = printable(as_text(value))
    except RecursionError:
        return "something nested too deep"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def as_tree(config: Config) -> Tree:
    """Every setting as nested plain values (tuples as lists), for files."""

    def plain(value: typing.Any) -> typing.Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, tuple | list) else value

    return plain(asdict(config))


def paths() -> list[str]:
    """Every `section.field` that can be set; `section.field.TASK` where it is a number for each task."""
    defaults = as_tree(Config())
    found = [
        f"{section}.{field}" + ".TASK" * isinstance(defaults[section][field], dict)
        for section, field, _ in settings()
    ]
    return [*found, "loss_weights.TASK"]
