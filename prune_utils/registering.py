"""Registration at run time: a criterion, budget, arbiter or method of the user's own, as good as ours.

`register` puts one into the registries; `load_plugin` runs a file that does so.
"""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .arbiters import ARBITERS, Arbiter
from .budgets import BUDGETS, Budget, Shapes
from .courses import COURSES
from .criteria import CRITERIA, Criterion
from .gradual import PACES
from .granularity import find_granularity
from .methods import METHODS, Method
from .text import not_one_of
from .voters import VOTERS
from .weightings import WEIGHTINGS


def register(
    name: str | None = None,
    *,
    criterion: Criterion | None = None,
    budget: Callable[[Shapes, int], Budget] | None = None,
    arbiter: Arbiter | None = None,
    method: Method | None = None,
) -> None:
    """Makes exactly one of the four known under its name, everywhere that names are looked up.

    name: not needed for a method, whose row carries it. The same thing may be registered again.

    >>> import prune_utils
    >>> fourth_power = prune_utils.Criterion(lambda weight, *more: weight.square().square(), "w^4")
    >>> prune_utils.register("fourth_power", criterion=fourth_power)
    >>> row = prune_utils.Method("w4", setup="static", criterion="fourth_power", summary="largest w^4")
    >>> prune_utils.register(method=row)

    Raises ValueError: none or several are given, something else than its kind, a name that is missing or
        taken, a row that refers to what does not exist.
    """
    given: dict[str, Any] = {"criterion": criterion, "budget": budget, "arbiter": arbiter, "method": method}
    kinds: dict[str, tuple[dict[str, Any], Any]] = {
        "criterion": (CRITERIA, Criterion),
        "budget": (BUDGETS, Callable),
        "arbiter": (ARBITERS, Arbiter),
        "method": (METHODS, Method),
    }
    found = [what for what, value in given.items() if value is not None]
    if len(found) != 1:
        raise ValueError(f"register takes exactly one of {', '.join(given)}, not {len(found)}")
    what = found[0]
    (registry, kind), value = kinds[what], given[what]
    if not isinstance(value, kind):
        raise ValueError(f"{what} {value!r} is not a {getattr(kind, '__name__', kind)}")
    if method is not None:
        check_row(method)
        name = name or method.name
        if name != method.name:
            raise ValueError(f"the row of method {name!r} is named {method.name!r}")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"a {what} needs a name of letters, digits and underscores, not {name!r}")
    if name in registry and registry[name] != value:
        raise ValueError(f"there is a {what} {name!r} already: choose another name")
    registry[name] = value


def check_row(row: Method) -> None:
    """Raises ValueError, naming row, field, value and choices, for a row that refers to nothing."""
    choices: dict[str, tuple[Any, ...]] = {
        "setup": ("static", "pretrained", "dynamic", "gradual"),
        "criterion": (None, *CRITERIA) if row.setup == "pretrained" else tuple(CRITERIA),
        "voters": (*VOTERS, *WEIGHTINGS),
        "budget": tuple(BUDGETS),
        "start": ("init", "dense", "rewound"),
        "training": ("full", "finetune"),
        "starts": ("sparse", "dense"),
        "course": tuple(COURSES),
        "pace": tuple(PACES),
        "grow": (None, *CRITERIA),
        "grow_voters": VOTERS,
    }
    find_granularity(row.granularity)
    for field, known in choices.items():
        value = getattr(row, field)
        if value not in known:
            names = [str(choice) for choice in known if choice is not None]
            raise ValueError(not_one_of(f"method {row.name!r}: {field}", str(value), names))
    if row.rounds < 1 or (row.retrain and row.rounds < 2):
        raise ValueError(f"method {row.name!r}: {row.rounds} rounds, with retrain {row.retrain}")
    if row.course == "regrow" and row.grow is None:
        raise ValueError(f"method {row.name!r}: course 'regrow' needs a criterion in `grow`")


def load_plugin(path: str | Path) -> list[str]:
    """Runs a Python file of the user's own, which registers what it brings: ["method w4", ...].

    Raises FileNotFoundError for a missing file, ValueError for one that fails, in one sentence with the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no plugin file {path}")
    spec = importlib.util.spec_from_file_location(f"plugin_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"plugin {path} is not a Python file (.py)")
    before = set(registered())
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # whatever the user's file does wrong is told, and where
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
        ]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f", line {line}" if line else ""
        raise ValueError(f"plugin {path}{where}: {type(error).__name__}: {error}") from error
    return [name for name in registered() if name not in before]


def registered() -> list[str]:
    """All that names are looked up among: ["criterion snip", ...]."""
    registries: dict[str, Mapping[str, Any]] = {
        "criterion": CRITERIA,
        "budget": BUDGETS,
        "arbiter": ARBITERS,
        "method": METHODS,
    }
    return [f"{what} {name}" for what, registry in registries.items() for name in registry]
