# PYTHON_ARGCOMPLETE_OK
"""Run a study: methods, ratios and seeds, each created, trained and evaluated; ends with the table of all.

Goes on where it stopped. The dense network of a seed is trained once for all methods that start from it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.choices import not_one_of
from common.command_line import described
from common.interrupt import Interrupted, StopRequest
from common.names import ratio_text
from common.numbers import parse_numbers, parse_seeds
from common.parents import serve
from common.text import duration
from configs.arguments import FLAGS, SWITCHES, flags_tree, parser
from configs.load import load, overlay, parse_assignments
from configs.origins import settings_table
from configs.schema import Config, Data
from dataloaders import DATASETS
from dataloaders.index import read_index, splits
from prune_utils.methods import METHODS
from study.plan import OURS, Study, Variant, check_set, check_tasks, parse_methods, single_tasks
from workflow import terminal

if TYPE_CHECKING:
    from study.plan import Job
    from study.runner import Times

EXAMPLES = """\
  python3 reproduce.py --dataset nyuv2 --methods all --ratios 90 --seeds 3 --dest outputs/study
  python3 reproduce.py --dataset nyuv2 --methods all --ratios 90 --seeds 3 --dest outputs/study --jobs 2
  python3 reproduce.py --dataset nyuv2 --executor slurm --jobs 8 --slurm partition=gpu --slurm time=600
  python3 reproduce.py --dataset nyuv2 --methods snip,disparse_static:rounds=12 --ratios 90,95 --dry-run
  python3 reproduce.py --methods random:budget=erk,rigl --config configs/tiny.yaml --seeds 1"""
COMMON = (
    "--dataset",
    "--data-root",
    "--methods",
    "--ratios",
    "--seeds",
    "--dest",
    "--config",
    "--set",
    "--max-iters",
    "--dry-run",
)
ELSEWHERE = {"ratio": "--ratios", "name": "--methods with variants"}


def arguments() -> Namespace:
    result = parser(
        __doc__,
        EXAMPLES + terminal.load_plugins(),
        ("data", "network", "pruning", "training", "machine"),
        COMMON,
    )
    methods = result.add_argument(
        "--methods", default="all", metavar="LIST", help="METHOD[:flag=value...] separated by commas"
    )
    described(methods, ("all", *METHODS))
    ratios = result.add_argument("--ratios", metavar="LIST", help="sparsities in percent")
    described(ratios, unset=f"prune.ratio, {ratio_text(Config().prune.ratio)}")
    result.add_argument(
        "--seeds", default="3", metavar="N|A,B", help="how many from --seed on, or a list such as 1,5"
    )
    result.add_argument("--jobs", default="1", metavar="N", help="runs side by side on this machine")
    result.add_argument(
        "--single-task",
        default="",
        metavar="LIST",
        help="also train a dense network for each task alone, once a seed: same (width), matched (together "
        "as many parameters as the multitask one), or same,matched; delta is then also told against these",
    )
    result.add_argument("--executor", metavar="NAME", help="slurm: hand the runs in there, N at once")
    result.add_argument(
        "--slurm", action="append", default=[], metavar="KEY=VALUE", help="partition, time, mem, ... (repeat)"
    )
    result.add_argument("--gpus", metavar="N", help="with --executor: of each run, several by torchrun")
    result.add_argument("--split", default="test", help="split of the index to evaluate on")
    result.add_argument("--dry-run", action="store_true", help="print the plan with its time, run nothing")
    result.add_argument(
        "--preflight", action="store_true", help="the same after trying a training and a mask in small"
    )
    return result.parse_args()


def words_of(asked: Namespace, groups: tuple[str, ...]) -> list[str]:
    """The flags of some groups as they were given, for the scripts that do the work."""
    words = []
    for name, flag in (FLAGS | SWITCHES).items():
        value = getattr(asked, name.replace("-", "_"), None)
        if flag.group in groups and value is not None and name not in OURS:
            words += [f"--{name}"] if name in SWITCHES else [f"--{name}", value]
    return words


def references(asked: Namespace, config: Config) -> tuple[Variant, ...]:
    """The networks for one task that the command line asks for."""
    kinds = [kind.strip() for kind in asked.single_task.split(",") if kind.strip()]
    widths: list[float | None] = []
    for kind in dict.fromkeys(kinds):
        if kind not in ("same", "matched"):
            raise ValueError(not_one_of("--single-task", kind, ("same", "matched")))
        if kind == "matched":
            from workflow.networks import matched_width

            widths.append(matched_width(config))
        else:
            widths.append(None)
    return single_tasks(config.data.tasks, tuple(widths))


def make_study(asked: Namespace, config: Config) -> Study:
    """The study that the command line describes."""
    for flag, instead in ELSEWHERE.items():
        if getattr(asked, flag) is not None:
            raise ValueError(f"--{flag} is not for a study: use {instead}")
    variants = tuple(parse_methods(asked.methods))
    check_tasks(variants, config.data.tasks)
    check_set(overlay(asked.dataset, (), parse_assignments(asked.set)), variants, asked.seeds, asked.ratios)
    if asked.seed is not None and "," in asked.seeds:
        raise ValueError(
            f"--seeds {asked.seeds} names the seeds, and --seed {asked.seed}: leave one of them out"
        )
    ratios = ratio_text(config.prune.ratio) if asked.ratios is None else asked.ratios
    plugins = [word for file in asked.plugin for word in ("--plugin", file)]
    tuned = words_of(asked, ("pruning", "training"))
    for flag, values in (("--config", asked.config), ("--set", asked.set)):
        tuned += [word for value in values for word in (flag, value)]
    return Study(
        dataset=asked.dataset,
        dest=Path(asked.dest),
        variants=variants,
        ratios=tuple(parse_numbers("--ratios", ratios, float)),
        seeds=tuple(parse_seeds(asked.seeds, config.run.seed)),
        shared=(*plugins, *words_of(asked, ("data", "network", "machine"))),
        tuned=tuple(tuned),
        split=asked.split,
        references=references(asked, config),
    )


def check_split(data: Data, split: str) -> None:
    """ValueError for a split that the index lacks; FileNotFoundError, saying how to get it, without data."""
    row = DATASETS[data.dataset]
    choices = splits(read_index(data.root, row.index_file, row.how_to_get))
    if split not in choices:
        raise ValueError(not_one_of("--split", split, choices))


def check_variants(jobs: Sequence[Job]) -> None:
    """ValueError for settings that a run which is not finished would refuse, maybe hours later."""
    from study.runner import config_of, remaining
    from workflow.create import check_choices

    different = {(job.variant, job.ratio): job for job in jobs if remaining(job)}
    for job in different.values():
        try:
            check_choices(config_of(job), job.variant.row)
        except ValueError as error:
            raise ValueError(f"{job.name}: {error}") from None


def check_images(config: Config, split: str, results: Sequence[Path]) -> None:
    """ValueError where a finished result is of other images than those that are scored now."""
    from comparison.results import read_result

    data, row = config.data, DATASETS[config.data.dataset]
    tasks = row.make_tasks(data.tasks, data, config.run.protocol)
    records = row.open(data, split, tasks, config.run.protocol)
    here = len(records), str(records.entries[0].files[records.layout.image.column])
    for path in results:
        made = read_result(path)
        if made is not None and made.images not in (None, here):
            count, first = made.images or here
            raise ValueError(
                f"{path} holds scores of {count} images from {first} on, and {data.root} has {here[0]} from "
                f"{here[1]} on: take the data folder of before, or another --dest"
            )


def main() -> None:
    asked = arguments()
    with StopRequest() as stop:
        work(asked, stop)


def work(asked: Namespace, stop: StopRequest) -> None:
    """Plan, run and report; raises Interrupted when it is told to stop."""
    at_once = count_of("jobs", asked.jobs)
    gpus = None if asked.gpus is None else count_of("gpus", asked.gpus)
    settings = cluster_settings(asked)
    config = load(asked.dataset, asked.config, flags_tree(asked))  # complains about settings before any work
    if asked.print_config:
        print(settings_table(config, asked))
        return
    study = make_study(asked, config)
    terminal.check_targets(asked.dest)

    from comparison.report import tables_by_ratio
    from study.runner import Times, check, plan_table, remaining

    jobs, times = study.jobs(), Times(study.dest)
    for job in jobs:
        check(job)
    check_variants(jobs)
    if asked.dry_run and not asked.preflight:  # which ends with the same
        print(plan_table(jobs, times, at_once))
        return
    if not asked.executor and any(remaining(job) for job in jobs):  # a cluster's machines may hold other data
        check_split(config.data, asked.split)
        check_images(config, asked.split, [job.result for job in jobs if job.result.is_file()])
    study.dest.mkdir(parents=True, exist_ok=True)
    if asked.preflight:
        times.guesses = tried(jobs, at_once, stop)
        print(plan_table(jobs, times, at_once))
        return
    if config.run.preflight and not asked.executor and not times.rows:
        times.guesses = tried(jobs, at_once, stop)
        tell(plan_table(jobs, times, at_once).splitlines()[-1])
    if asked.executor:
        failures = run_on_cluster(study.dest, jobs, at_once, gpus, settings, stop)
    else:
        failures = run_here(jobs, times, at_once, stop, study.dest)
    times = Times(study.dest)  # with those that another process measured
    for job in failures:
        tell(f"failed: seed {job.seed} {job.name}")
    finished = [job.result for job in jobs if job.result.is_file()]
    if finished:
        print("\n" + tables_by_ratio(finished, study.ratios))
    print(f"\nall runs below {study.dest} together took {duration(times.total)}")
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} runs failed; the same command tries them again")


def count_of(flag: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"--{flag} '{text}' is not a whole number of at least 1")
    return int(text)


def cluster_settings(asked: Namespace) -> dict[str, str]:
    """What --slurm says. ValueError for a word without =, or without --executor."""
    if asked.executor not in (None, "slurm"):
        raise ValueError(f"--executor '{asked.executor}' is not slurm; leave it out to run here")
    for flag, given in (("slurm", asked.slurm), ("gpus", asked.gpus is not None)):
        if given and not asked.executor:
            raise ValueError(f"--{flag} is for a cluster: it needs --executor slurm")
    for word in asked.slurm:
        if not word.partition("=")[2]:
            raise ValueError(f"--slurm '{word}' is not KEY=VALUE, such as time=600 or partition=gpu")
    return dict(word.split("=", 1) for word in asked.slurm)


def tell(line: str) -> None:
    print(line, flush=True)


def tried(jobs: list[Job], at_once: int, stop: StopRequest) -> dict[tuple[str, str], float]:
    """What the preflights of a training and of a mask say that each kind of command takes."""
    from study.foretell import foretell
    from study.isolated import Stopped, threads_of

    tell("trying a training and a mask in small, to say how long the study takes")
    try:
        return foretell(jobs, stop, threads_of(at_once))
    except Stopped as stopped:
        raise Interrupted(stopped.number, "the study was stopped") from None


def run_here(jobs: list[Job], times: Times, at_once: int, stop: StopRequest, dest: Path) -> list[Job]:
    """Run what is not finished on this machine; the jobs that failed."""
    from study.isolated import LOADED, Stopped, threads_of
    from study.live import live
    from study.runner import run_jobs

    if not all(job.result.is_file() for job in jobs):
        serve(*LOADED)
    try:
        with live(dest):
            return run_jobs(jobs, times, tell, stop, at_once, threads_of(at_once), tell)
    except Stopped as stopped:
        raise Interrupted(stopped.number, "the study was stopped") from None


def run_on_cluster(
    dest: Path, jobs: list[Job], at_once: int, gpus: int | None, settings: dict[str, str], stop: StopRequest
) -> list[Job]:
    """Hand in what is not finished and follow it; the jobs that failed."""
    try:
        from study.cluster import arrays_of, follow, hand_in, slurm
    except ImportError:
        raise ValueError(
            "--executor slurm needs submitit: `python3 -m pip install -r requirements-cluster.txt`"
        ) from None
    from study.isolated import Stopped

    handed = hand_in(jobs, dest, slurm(dest, at_once, gpus, settings), gpus or 1)
    arrays = " ".join(arrays_of(one for _, one in handed))
    tell(f"handed in {len(handed)} runs, at most {at_once} at once: `squeue` shows jobs {arrays or 'none'}")
    try:
        return follow(handed, tell, stop)
    except Stopped as stopped:
        raise Interrupted(
            stopped.number,
            f"the runs stay in the queue (`scancel {arrays}` takes them out); this shows their table then",
        ) from None


if __name__ == "__main__":
    terminal.run(main)
