"""Limits on what each task may lose, as the command line says them: --max-drop seg=1,sn.mean=2,all=5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from common.choices import not_one_of
from prune_utils.ascent import task_of
from tasks.base import Task

EVERYTHING, ANYTHING = "all", "none"  # seg=1,all=2: every other task 2 %; depth=none: whatever it loses


def parse_limits(words: Sequence[str], tasks: Mapping[str, Task]) -> dict[str, float]:
    """ "seg=1", "sn.mean=2", ... -> "seg", "sn.mean", ... -> percent, in the order of the tasks.

    Raises ValueError for a task or measure that there is not, a limit that is no number of at least 0, one
    that is given twice, and a task without any.
    """
    given: dict[str, float] = {}
    for word in words:
        name, sign, text = (part.strip() for part in word.partition("="))
        if not sign:
            raise ValueError(f"--max-drop takes TASK=PERCENT, such as {next(iter(tasks))}=1, not '{word}'")
        _check_name(name, tasks)
        if name in given:
            raise ValueError(f"--max-drop gives two limits for '{name}'")
        given[name] = _percent(name, text)
    rest = given.pop(EVERYTHING, None)
    limits: dict[str, float] = {}
    for task in tasks:
        own = {name: limit for name, limit in given.items() if task_of(name) == task}
        if not own and rest is None:
            raise ValueError(
                f"--max-drop gives no limit for task '{task}': {task}=PERCENT, or {task}=none where it may "
                "lose anything"
            )
        limits |= own or {task: rest if rest is not None else math.inf}
    if not any(map(math.isfinite, limits.values())):
        raise ValueError("--max-drop lets every task lose anything: there is nothing to search for")
    return limits


def _check_name(name: str, tasks: Mapping[str, Task]) -> None:
    task, _, measure = name.partition(".")
    if name == EVERYTHING:
        return
    if task not in tasks:
        raise ValueError(not_one_of("--max-drop: task", task, (*tasks, EVERYTHING)))
    if measure or name.endswith("."):
        known = tasks[task].directions
        if measure not in known:
            raise ValueError(not_one_of(f"--max-drop: measure of {task}", measure, known))


def _percent(name: str, text: str) -> float:
    if text == ANYTHING and "." not in name:
        return math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"--max-drop: limit '{text}' of '{name}' is not a number of at least 0 (percent)")
    return value
