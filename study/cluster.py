"""A study on a Slurm cluster, by submitit: arrays of runs, a limit on how many run at once, requeueing.

The dense networks that others start from are one array; all other runs are a second one, which waits for the
first to end. `array_parallelism` holds the limit, for all as only one array runs at a time. A run that is
preempted or reaches its time limit saves a checkpoint, is queued again and goes on from it. Every run is
claimed, so that the same folder may be worked on from other machines at the same time; a dense network that
another process trains is waited for.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from common.interrupt import StopRequest

from .isolated import ROOT, Stopped, save_running
from .plan import Job
from .runner import Times, claim_and_run, remaining

TICK = 2.0  # seconds between looks at the queue, or at a run that another process is at
REQUEUES = 100  # time limits that one run may reach


@dataclass(frozen=True)
class Element:
    """One run of a study, as it is called on a cluster's node. It returns as `claim_and_run`.

    awaited: whether others start when it has ended, so that it does not end while another process is at it.
    """

    job: Job
    dest: Path
    devices: int = 1
    awaited: bool = False

    def __call__(self) -> tuple[str | None, str | None]:
        with StopRequest() as stop:
            while True:
                done = claim_and_run(self.job, Times(self.dest), stop, None, self.devices)
                if done[0] is not None or not self.awaited:
                    return done
                if stop.number is not None:
                    raise Stopped(stop.number)
                time.sleep(TICK)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Before it is preempted: saved, and to be called again, which goes on."""
        save_running()
        return submitit.helpers.DelayedSubmission(self)


def slurm(dest: Path, at_once: int, gpus: int | None, given: Mapping[str, str]) -> submitit.Executor:
    """What hands in.

    gpus: that each run asks for, None = whatever the partition gives. given: settings of sbatch by the names
    of submitit (partition, time, mem, ...).

    Raises ValueError for a setting that is not known, or where there is no Slurm.
    """
    folder = dest.absolute() / "logs" / "slurm"
    for tool in ("srun", "sbatch"):
        if shutil.which(tool) is None:
            raise ValueError(f"--executor slurm: there is no Slurm here (no `{tool}`): leave it out")
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
    settings: dict[str, Any] = {"array_parallelism": at_once, "job_name": "disparse", **map_values(given)}
    if gpus is not None:
        settings.setdefault("gpus_per_node", gpus)
    try:
        executor.update_parameters(**settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--slurm: {' '.join(str(error).split())}") from None
    return executor


def map_values(given: Mapping[str, str]) -> dict[str, Any]:
    """Whole numbers as numbers, everything else as text."""
    return {key: int(value) if value.isdecimal() else value for key, value in given.items()}


def hand_in(
    jobs: Sequence[Job], dest: Path, executor: submitit.Executor, devices: int = 1
) -> list[tuple[Job, submitit.Job]]:
    """Hand in every run that is not finished: first the dense networks that others need, then all others.

    An executor without dependencies (a local one) is waited for in between. ValueError, with sbatch's own
    words, where it refuses.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    todo = [job for job in jobs if remaining(job)]
    seeds = {job.seed for job in todo if job.needs_dense}
    first = [job for job in todo if job.is_dense and job.seed in seeds]
    handed: list[tuple[Job, submitit.Job]] = []
    for stage in (first, [job for job in todo if job not in first]):
        if not stage:
            continue
        if handed:
            _after(executor, [one for _, one in handed])
        with _refusal(handed), executor.batch():
            awaited = stage is first
            ones = [executor.submit(Element(job, dest.absolute(), devices, awaited)) for job in stage]
        handed += zip(stage, ones, strict=True)
    return handed


@contextmanager
def _refusal(handed: Sequence[tuple[Job, submitit.Job]]) -> Iterator[None]:
    """Inside, what sbatch refuses is a ValueError that carries its words and names what is queued already."""
    said = io.StringIO()  # submitit shows the words, too
    try:
        with redirect_stderr(said):
            yield
    except (FailedJobError, FailedSubmissionError) as error:
        words = " ".join((str(error) or said.getvalue() or "nothing").split()).removeprefix("sbatch: ")
        queued = arrays_of(one for _, one in handed)
        rest = f"; queued already: {' '.join(queued)} (`scancel` takes them out)" if queued else ""
        raise ValueError(f"--executor slurm: sbatch took no runs and said: {words}{rest}") from error
    sys.stderr.write(said.getvalue())


def arrays_of(ones: Iterable[submitit.Job]) -> list[str]:
    """The numbers of the job arrays that these are of."""
    return sorted({one.job_id.split("_")[0] for one in ones})


def _after(executor: submitit.Executor, ones: Sequence[submitit.Job]) -> None:
    """What is handed in next starts when these have ended, well or not: a run that misses one says so."""
    if isinstance(executor, submitit.SlurmExecutor):
        executor.update_parameters(dependency=f"afterany:{':'.join(arrays_of(ones))}")
        return
    for one in ones:
        one.wait()


def follow(
    handed: Sequence[tuple[Job, submitit.Job]], say: Callable[[str], None], stop: StopRequest
) -> list[Job]:
    """Wait for all, a line about each that ends; the jobs that failed. Raises Stopped when that is requested,
    which leaves the queue as it is."""
    failed, pending = [], dict(enumerate(handed, 1))
    while pending:
        for number, (job, one) in list(pending.items()):
            if stop.number is not None:
                raise Stopped(stop.number)
            if not one.done():
                continue
            del pending[number]
            outcome, trouble = _outcome(one)
            failed += [job] if trouble else []
            say(f"[{number}/{len(handed)}] seed {job.seed} {job.name}: {outcome}, {len(pending)} to go")
        if pending:
            time.sleep(TICK)
    return failed


def _outcome(one: submitit.Job) -> tuple[str, str | None]:
    """What became of an element, and what went wrong."""
    error = one.exception()
    if error is not None:
        last = (one.stderr() or "it said nothing").strip().splitlines()[-1]
        return f"failed in job {one.job_id}, see {one.paths.stderr}: {last}", str(error)
    outcome, trouble = one.result()
    return outcome or "left to another process", trouble
