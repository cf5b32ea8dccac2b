"""Run a study: methods, ratios and seeds, each created, trained and evaluated; ends with the table of all.

Goes on where it stopped. The dense network of a seed is trained once for all methods that start from it.
"""

import shlex
import sys
from argparse import Namespace
from pathlib import Path

from common.choices import not_one_of
from common.interrupt import Interrupted, StopRequest
from common.numbers import parse_numbers, parse_seeds
from common.text import duration
from configs.arguments import FLAGS, SWITCHES, flags_tree, parser
from configs.load import load
from configs.schema import Config
from prune_utils.methods import METHODS
from study.plan import OURS, Study, Variant, parse_methods, single_tasks
from workflow import terminal

EXAMPLES = """\
  python3 reproduce.py --dataset nyuv2 --methods all --ratios 90 --seeds 3 --dest outputs/study
  python3 reproduce.py --dataset nyuv2 --methods all --ratios 90 --seeds 3 --dest outputs/study --jobs 2
  python3 reproduce.py --dataset nyuv2 --methods snip,disparse_static:rounds=12 --ratios 90,95 --dry-run
  python3 reproduce.py --methods random:budget=erk,rigl --config configs/tiny.yaml --seeds 1"""
ELSEWHERE = {"ratio": "--ratios", "name": "--methods with variants"}


def arguments() -> Namespace:
    result = parser(__doc__, EXAMPLES, ("data", "network", "pruning", "training", "machine"))
    result.add_argument(
        "--methods",
        default="all",
        metavar="LIST",
        help=f"all, or METHOD[:flag=value...] separated by commas; {', '.join(METHODS)}",
    )
    result.add_argument("--ratios", default="90", metavar="LIST", help="sparsities in percent (90)")
    result.add_argument(
        "--seeds", default="3", metavar="N|A,B", help="how many from --seed (0) on, or a list such as 1,5 (3)"
    )
    result.add_argument("--split", default="test", help="split of the index to evaluate on (test)")
    result.add_argument("--jobs", default="1", metavar="N", help="runs side by side on this machine (1)")
    result.add_argument(
        "--single-task",
        default="",
        metavar="LIST",
        help="also train a dense network for each task alone, once a seed: same (width), matched (together "
        "as many parameters as the multitask one), or same,matched; delta is then also told against these",
    )
    result.add_argument("--dry-run", action="store_true", help="print the plan with its time, run nothing")
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
    plugins = [word for file in asked.plugin for word in ("--plugin", file)]
    tuned = words_of(asked, ("pruning", "training"))
    for flag, values in (("--config", asked.config), ("--set", asked.set)):
        tuned += [word for value in values for word in (flag, value)]
    return Study(
        dataset=asked.dataset,
        dest=Path(asked.dest),
        variants=tuple(parse_methods(asked.methods)),
        ratios=tuple(parse_numbers("--ratios", asked.ratios, float)),
        seeds=tuple(parse_seeds(asked.seeds, config.run.seed)),
        shared=(*plugins, *words_of(asked, ("data", "network", "machine"))),
        tuned=tuple(tuned),
        split=asked.split,
        references=references(asked, config),
    )


def main() -> None:
    asked = arguments()
    with StopRequest() as stop:
        work(asked, stop)


def work(asked: Namespace, stop: StopRequest) -> None:
    """Plan, run and report; raises Interrupted when it is told to stop."""
    if not asked.jobs.isdecimal() or not int(asked.jobs):
        raise ValueError(f"--jobs '{asked.jobs}' is not a whole number of at least 1")
    at_once = int(asked.jobs)
    terminal.load_plugins(asked.plugin)
    config = load(asked.dataset, asked.config, flags_tree(asked))  # complains about settings before any work
    study = make_study(asked, config)

    from comparison.report import tables_by_ratio
    from study.isolated import Stopped, threads_of
    from study.runner import Times, check, plan_table, run_jobs

    jobs, times = study.jobs(), Times(study.dest)
    for job in jobs:
        check(job)
    if asked.dry_run:
        print(plan_table(jobs, times, at_once))
        return
    study.dest.mkdir(parents=True, exist_ok=True)
    try:
        failures = run_jobs(
            jobs, times, lambda line: print(line, flush=True), stop, at_once, threads_of(at_once)
        )
    except Stopped as stopped:
        command = shlex.join(["python3", *sys.argv])
        raise Interrupted(
            stopped.number, f"the study was stopped; the same command goes on: {command}"
        ) from None
    times = Times(study.dest)  # with those that another process measured
    if any(job.result.is_file() for job in jobs):
        print("\n" + tables_by_ratio(study.dest, study.dataset, study.ratios, study.split))
    print(f"\nall runs below {study.dest} together took {duration(times.total)}")
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} runs failed; the same command tries them again")


if __name__ == "__main__":
    terminal.run(main)
