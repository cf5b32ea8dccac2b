"""Carry out a study: the runs one after the other, skipping what is finished, and a line about each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from common.text import duration, table
from configs.arguments import flags_tree, parser
from configs.load import Tree, as_tree, load, result_settings

from .isolated import last_line, run_script
from .plan import Command, Job
from .timing import Times


def remaining(job: Job) -> list[Command]:
    """The commands that are still to be run: nothing after a finished result."""
    if job.result.is_file():
        return []
    return [command for command in job.commands if not job.finished(command)]


def settings(job: Job) -> Tree:
    """Every setting of a run, read from its command line as the scripts do. Raises as `load` does."""
    reader = parser("", "", ("data", "network", "pruning", "training", "machine"))
    reader.add_argument("--method")
    reader.add_argument("--resume", action="store_true")
    asked = reader.parse_args(list(job.commands[0].words))
    return as_tree(load(asked.dataset, asked.config, flags_tree(asked)))


def check(job: Job) -> None:
    """ValueError if a setting is wrong, or a finished result was made with other ones than asked for now."""
    asked = settings(job)
    if not job.result.is_file():
        return
    made = result_settings(json.loads(job.result.read_text())["config"])
    for section, fields in result_settings(asked).items():
        for field, value in fields.items():
            was = made[section].get(field)
            if was != value:
                raise ValueError(
                    f"{job.result} was made with {section}.{field}={was}, this study asks for {value}: "
                    "name another --dest, or remove the file to run it again"
                )


def run_jobs(jobs: list[Job], times: Times, say: Callable[[str], None]) -> list[Job]:
    """Run what is not finished, in order; the jobs that failed.

    A failed run stops no other; those that need its files fail too.
    """
    failed = []
    for number, job in enumerate(jobs, 1):
        trouble = None
        if remaining(job):
            seconds, trouble = _run(job, times)
            outcome = f"failed in {trouble}" if trouble else f"finished in {duration(seconds)}"
        else:
            outcome = "finished before"
        failed += [job] if trouble else []
        say(f"[{number}/{len(jobs)}] seed {job.seed} {job.name}: {outcome}{_to_go(jobs[number:], times)}")
    return failed


def _to_go(jobs: list[Job], times: Times) -> str:
    """How long the rest will take, where measured runs tell."""
    guesses = [times.estimate(job, command) for job in jobs for command in remaining(job)]
    return f", about {duration(sum(guesses))} to go" if guesses and None not in guesses else ""


def _run(job: Job, times: Times) -> tuple[float, str | None]:
    """Seconds that the commands of a run took, and what went wrong, if anything did."""
    spent = 0.0
    for command in remaining(job):
        log = job.folder / "logs" / f"{job.name}.{command.kind}.log"
        begin = time.monotonic()
        status = run_script(command.script, command.words, log)
        seconds = time.monotonic() - begin
        spent += seconds
        if status:
            return spent, f"{command.script}, see {log}: {last_line(log)}"
        times.add(job, command, seconds)
    return spent, None


def plan_table(jobs: list[Job], times: Times) -> str:
    """What would be run, and about how long it would take."""
    rows, total, unknown = [], 0.0, 0
    for job in jobs:
        commands = remaining(job)
        guesses = [times.estimate(job, command) for command in commands]
        known = None not in guesses
        seconds = sum(guesses) if known else None
        total += seconds or 0.0
        unknown += not known
        todo = ", ".join(command.kind for command in commands) or "finished"
        rows.append((job.seed, job.name, todo, duration(seconds) if commands else "-"))
    end = f"{sum(bool(remaining(job)) for job in jobs)} of {len(jobs)} runs to do, about {duration(total)}"
    end += f" and {unknown} of unknown length" if unknown else ""
    return table(rows, ("seed", "run", "to do", "about")) + f"\n{end}"
