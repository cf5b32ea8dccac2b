"""How long a study's commands will take before any has run: by the preflights of a training and of a mask.

Other methods' commands are taken to be as long, fine-tuning in proportion to its steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.files import read_json
from common.interrupt import StopRequest

from .isolated import run_script
from .plan import Job
from .runner import remaining, settings

Guesses = dict[tuple[str, str], float]  # (kind of command, length of training) -> seconds


def foretell(jobs: Sequence[Job], stop: StopRequest, threads: int | None = None) -> Guesses:
    """Tries what is not finished in small; {} where that fails, of which the run itself will tell.

    Raises Stopped where that is requested.
    """
    todo = [job for job in jobs if remaining(job)]
    training = next((job for job in todo if job.is_dense or job.commands[0].kind == "launch"), None)
    pruning = next((job for job in todo if job.commands[0].kind == "create" and not job.needs_dense), None)
    guesses: Guesses = {}
    told = _tried(training, stop, threads) if training else {}
    if training and told:
        lengths = settings(training)
        full, short = (lengths[section]["iterations"] for section in ("optim", "finetune"))
        launch = told["command"] * (full / short if training.variant.training == "finetune" else 1)
        for length, share in (("full", 1.0), ("finetune", short / full)):
            guesses["launch", length] = launch * share
            guesses["eval", length] = told["evaluation"]
    told = _tried(pruning, stop, threads) if pruning else {}
    if told:
        guesses |= {("create", length): told["command"] for length in ("full", "finetune")}
    return guesses


def _tried(job: Job, stop: StopRequest, threads: int | None) -> dict[str, float]:
    """What the preflight of a run's first command says, {} where it failed."""
    command, folder = job.commands[0], job.folder / "logs"
    written = folder / f"{job.name}.preflight.json"
    log = folder / f"{job.name}.preflight.log"
    status = run_script(command.script, (*command.words, "--preflight", str(written)), log, stop, threads)
    return {} if status else read_json(written)
