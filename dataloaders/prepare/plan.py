"""What a conversion is going to do, decided before anything is written, and its doing.

A converter checks its inputs and returns a Plan; only then is the destination claimed. A file that turns out
to be broken costs its record, not the conversion: it is left out, counted and named.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dataloaders.index import elsewhere
from dataloaders.writing import run_all

Index = dict[str, list[list[str | None]]]


class Job(Protocol):
    """One record to be made. It travels to other processes."""

    @property
    def record(self) -> list[str | None]: ...


class Plan(NamedTuple):
    """jobs: split -> records to make. convert(job) writes one, ValueError if a file of it is broken.

    finish(split -> what convert returned) writes what stands beside the records.
    """

    label: str
    jobs: dict[str, list[Any]]
    convert: Callable[[Any], Any]
    finish: Callable[[dict[str, list[Any]]], None] = lambda results: None


class Outcome(NamedTuple):
    """What convert returned, or a sentence about what is broken."""

    result: Any
    broken: str = ""


def carry_out(plan: Plan, workers: int) -> tuple[Index, list[str]]:
    """The index, and a sentence for every record that was left out. ValueError if none is left."""
    every = [job for jobs in plan.jobs.values() for job in jobs]
    outcomes = iter(run_all(partial(attempt, plan.convert), every, workers, plan.label))
    index: Index = {}
    results: dict[str, list[Any]] = {}
    broken: list[str] = []
    for split, jobs in plan.jobs.items():
        made = [(job, next(outcomes)) for job in jobs]
        broken += [outcome.broken for _, outcome in made if outcome.broken]
        index[split] = [job.record for job, outcome in made if not outcome.broken]
        results[split] = [outcome.result for _, outcome in made if not outcome.broken]
        if jobs and not index[split]:
            raise ValueError(f"no record of split {split!r} can be made: {broken[0]}")
    plan.finish(results)
    return index, broken


def attempt(convert: Callable[[Any], Any], job: Any) -> Outcome:
    """Make one record; errors of writing are raised."""
    try:
        return Outcome(convert(job))
    except ValueError as error:
        return Outcome(None, str(error))


def wanted(path: Path, option: str) -> Path:
    """The path, if it is a file. FileNotFoundError names the option that gives another place."""
    if not path.is_file():
        where = elsewhere(path.parent, path.name) if path.parent.is_dir() else ""
        raise FileNotFoundError(f"{path} does not exist as a file{where}: give its place by {option}")
    return path


def read(reader: Callable[[Path], Any], path: Path) -> Any:
    """What a reader makes of a file; ValueError begins with the file's name."""
    try:
        return reader(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
