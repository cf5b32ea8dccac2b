"""Carry out a study: the runs one after the other, skipping what is finished, and a line about each."""

from __future__ import annotations

import csv
import fcntl
import json
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from statistics import fmean

from common.interrupt import StopRequest
from common.lock import Held, locked
from common.text import duration, table
from configs.arguments import flags_tree
from configs.load import Tree, as_tree, load, result_settings, shown
from configs.schema import Config

from .isolated import Stopped, kill_running, last_line, run_script
from .plan import Command, Job, read

TIMES = "times.csv"
WAIT = 1.0  # seconds until a run that another process is at is looked for again
FIELDS = ("seed", "name", "method", "training", "kind", "seconds")


class Times:
    """The measured seconds of every finished command, kept in DEST/times.csv; damaged rows are left out."""

    def __init__(self, dest: Path) -> None:
        self.path = dest / TIMES
        self._mine = threading.Lock()  # the file's lock keeps other processes out, not this one's threads
        self.rows: list[dict[str, str]] = []
        self.guesses: dict[tuple[str, str], float] = {}  # (kind, length of training) -> of a preflight
        if self.path.is_file():
            with open(self.path, newline="", encoding="utf-8", errors="replace") as file:
                self.rows = [row for row in csv.DictReader(_without_nul(file)) if _is_measured(row)]

    def add(self, job: Job, command: Command, seconds: float) -> None:
        """Remember a finished command. Another process may do the same at the same time."""
        variant = job.variant
        values = (job.seed, job.name, variant.label, variant.training, command.kind, f"{seconds:.2f}")
        row = dict(zip(FIELDS, map(str, values), strict=True))
        with self._mine, open(self.path, "a", newline="", encoding="utf-8") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            writer = csv.DictWriter(file, FIELDS)
            if not os.fstat(file.fileno()).st_size:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)

    @property
    def total(self) -> float:
        """Seconds of all commands together."""
        return sum(float(row["seconds"]) for row in self.rows)

    def estimate(self, job: Job, command: Command) -> float | None:
        """Mean seconds of this command for the same variant, else of others as long, else what a preflight
        said; None = unknown."""
        near = defaultdict(list)
        for row in self.rows:
            if row["kind"] == command.kind:
                near[row["method"]].append(float(row["seconds"]))
                near[row["training"]].append(float(row["seconds"]))
        known = near.get(job.variant.label) or near.get(job.variant.training)
        return fmean(known) if known else self.guesses.get((command.kind, job.variant.training))


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    return (line.replace("\0", "") for line in lines)


def _is_measured(row: dict[str, str]) -> bool:
    try:
        return set(FIELDS) <= set(row) and 0 <= float(row["seconds"]) < math.inf
    except (TypeError, ValueError):
        return False


def remaining(job: Job) -> list[Command]:
    """The commands whose files are still to be made: nothing after a finished result."""
    if job.result.is_file():
        return []
    return [command for command in job.commands if not job.finished(command)]


def config_of(job: Job) -> Config:
    """The settings of a run, read from its command line as the scripts do. Raises as `load` does."""
    asked = read(job.commands[0].words)
    return load(asked.dataset, asked.config, flags_tree(asked))


def settings(job: Job) -> Tree:
    """The same as a tree."""
    return as_tree(config_of(job))


def check(job: Job) -> None:
    """ValueError if a setting is wrong, or a finished result was made with other ones than asked for now.
    Files of a run without a result are for its commands to look at."""
    asked = settings(job)
    if not job.result.is_file():
        return
    made = result_settings(_config_of(job.result))
    for section, fields in result_settings(asked).items():
        for field, value in fields.items():
            was = made[section].get(field)
            if was != value:
                raise ValueError(
                    f"{job.result} was made with {section}.{field}={shown(was)}, this study asks for "
                    f"{value}: name another --dest, or remove the file to run it again"
                )


def _config_of(result: Path) -> dict:
    """The settings in a result file; ValueError where it is damaged or something else."""
    try:
        made = json.loads(result.read_text(encoding="utf-8"))["config"]
        if isinstance(made, dict) and all(isinstance(section, dict) for section in made.values()):
            return made
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ValueError(f"{result} is not a result of eval_pruned_net.py: remove it to run this again")


def run_jobs(
    jobs: list[Job],
    times: Times,
    say: Callable[[str], None],
    stop: StopRequest,
    at_once: int = 1,
    threads: int | None = None,
    began: Callable[[str], None] | None = None,
) -> list[Job]:
    """Run what is not finished, in order; the jobs that failed. Raises Stopped when that is requested.

    at_once: runs side by side. threads: of the processor for each, None = as they would by themselves.
    began: hears of every run that is about to start, and how long it will take.
    A failed run stops no other; those that need its files fail too. Several processes may do this for the
    same jobs at once: each takes the next run that nobody is at, and all wait for the last one.
    """
    failed: list[Job] = []
    begin, told = time.monotonic(), set[int]()
    pending, elsewhere = dict(enumerate(jobs, 1)), set[int]()
    active: dict[Future[tuple[str | None, str | None]], int] = {}
    with ThreadPoolExecutor(
        at_once
    ) as pool:  # its threads start the scripts, and live until the last one ends
        try:
            while pending:
                for number, job in pending.items():
                    waits = number in elsewhere or number in active.values()
                    if len(active) < at_once and not waits and _is_ready(job, pending.values()):
                        if stop.number is not None:
                            raise Stopped(stop.number)
                        if began and number not in told and remaining(job):
                            began(f"[{number}/{len(jobs)}] seed {job.seed} {job.name}: {_ahead(job, times)}")
                        told.add(number)
                        active[pool.submit(claim_and_run, job, times, stop, threads)] = number
                done, _ = wait(active, WAIT, return_when=FIRST_COMPLETED)
                if not active:
                    time.sleep(WAIT)
                if not done:
                    elsewhere.clear()  # others are at all that is left, or were
                for future in done:
                    number = active.pop(future)
                    outcome, trouble = future.result()
                    if outcome is None:
                        elsewhere.add(number)
                        continue
                    job = pending.pop(number)
                    failed += [job] if trouble else []
                    rest = _to_go(list(pending.values()), times, at_once)
                    rest = f"; {duration(time.monotonic() - begin)} done{rest}" if rest else ""
                    say(f"[{number}/{len(jobs)}] seed {job.seed} {job.name}: {outcome}{rest}")
        except Stopped:
            raise
        except BaseException:
            kill_running()
            raise
    return failed


def _ahead(job: Job, times: Times) -> str:
    """What is to be done for a run, and about how long it takes: "create, launch, eval, about 3 min"."""
    kinds = ", ".join(command.kind for command in remaining(job))
    seconds = _expected([job], times)
    return f"{kinds}, about {duration(seconds)}" if seconds is not None else kinds


def _expected(jobs: Iterable[Job], times: Times) -> float | None:
    """Seconds that the rest of these runs will take; None where a command is unknown, or none is left."""
    guesses = [times.estimate(job, command) for job in jobs for command in remaining(job)]
    return (
        None if not guesses or None in guesses else sum(seconds for seconds in guesses if seconds is not None)
    )


def _is_ready(job: Job, pending: Iterable[Job]) -> bool:
    """Whether the dense network that a run starts from is not still to be trained, here or elsewhere."""
    return not job.needs_dense or not any(other.is_dense and other.seed == job.seed for other in pending)


def claim_and_run(
    job: Job, times: Times, stop: StopRequest, threads: int | None, devices: int = 1
) -> tuple[str | None, str | None]:
    """What became of a run, None where another process is at it, and what went wrong, if anything did.

    threads, devices: as `run_script` takes them.
    """
    if not remaining(job):
        return "finished before", None
    try:
        with locked(job.folder, job.name, "claim"):
            if not remaining(job):
                return "finished by another process", None
            seconds, trouble = _run(job, times, stop, threads, devices)
    except Held:
        return None, None
    return (f"failed in {trouble}" if trouble else f"finished in {duration(seconds)}"), trouble


def _to_go(jobs: list[Job], times: Times, at_once: int) -> str:
    """How long the rest will take, where measured runs tell."""
    seconds = _expected(jobs, times)
    return f", about {duration(seconds / at_once)} to go" if seconds is not None else ""


def _run(
    job: Job, times: Times, stop: StopRequest, threads: int | None, devices: int
) -> tuple[float, str | None]:
    """Seconds that the commands of a run took, and what went wrong, if anything did.

    Those whose files are there are called as well: they refuse files of other settings, and else end at once.
    """
    spent = 0.0
    for command in job.commands:
        before = job.finished(command)
        log = job.folder / "logs" / f"{job.name}.{command.kind}.log"
        begin = time.monotonic()
        status = run_script(command.script, command.words, log, stop, threads, devices)
        seconds = time.monotonic() - begin
        spent += seconds
        if status:
            return spent, f"{command.script}, see {log}: {last_line(log)}"
        if not before:
            times.add(job, command, seconds)
    return spent, None


def plan_table(jobs: list[Job], times: Times, at_once: int = 1) -> str:
    """What would be run, about how long it would take with so many runs at once, and what was spent."""
    rows, total, unknown = [], 0.0, 0
    for job in jobs:
        commands = remaining(job)
        seconds = _expected([job], times) if commands else 0.0
        total += seconds or 0.0
        unknown += seconds is None
        todo = ", ".join(command.kind for command in commands) or "finished"
        rows.append((job.seed, job.name, todo, duration(seconds) if commands else "-"))
    left = sum(bool(remaining(job)) for job in jobs)
    end = f"{left} of {len(jobs)} runs to do, about {duration(total / at_once)}"
    end += f" and {unknown} of unknown length" if unknown else ""
    if times.rows:
        end += f"; the finished ones took {duration(times.total)}"
    return table(rows, ("seed", "run", "to do", "about")) + f"\n{end}"
