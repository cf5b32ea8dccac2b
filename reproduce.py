"""Run a study: methods, ratios and seeds, each created, trained and evaluated; ends with the table of all.

Goes on where it stopped. The dense network of a seed is trained once for all methods that start from it.
"""

from pathlib import Path

from configs.arguments import FLAGS, SWITCHES, flags_tree, parser
from configs.load import load
from prune_utils.methods import METHODS
from workflow import terminal

EXAMPLES = """\
  python3 reproduce.py --dataset nyuv2 --methods all --ratios 90 --seeds 3 --dest outputs/study
  python3 reproduce.py --dataset nyuv2 --methods snip,disparse_static:rounds=12 --ratios 90,95 --dry-run
  python3 reproduce.py --methods random:budget=erk,rigl --config configs/tiny.yaml --seeds 1"""
ELSEWHERE = {"seed": "--seeds", "ratio": "--ratios", "name": "--methods with variants"}


def arguments():
    result = parser(__doc__, EXAMPLES, ("data", "network", "pruning", "training", "machine"))
    result.add_argument(
        "--methods",
        default="all",
        metavar="LIST",
        help=f"all, or METHOD[:flag=value...] separated by commas; {', '.join(METHODS)}",
    )
    result.add_argument("--ratios", default="90", metavar="LIST", help="sparsities in percent (90)")
    result.add_argument("--seeds", default="3", metavar="N", help="3 = seeds 0, 1, 2; or a list such as 1,5")
    result.add_argument("--split", default="test", help="split of the index to evaluate on (test)")
    result.add_argument("--dry-run", action="store_true", help="print the plan with its time, run nothing")
    return result.parse_args()


def words_of(asked, groups: tuple[str, ...]) -> list[str]:
    """The flags of some groups as they were given, for the scripts that do the work."""
    words = []
    for name, flag in (FLAGS | SWITCHES).items():
        value = getattr(asked, name.replace("-", "_"), None)
        if flag.group in groups and value is not None:
            words += [f"--{name}"] if name in SWITCHES else [f"--{name}", value]
    return words


def make_study(asked):
    """The study that the command line describes."""
    from study.plan import Study, parse_methods, parse_numbers, parse_seeds

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
        seeds=tuple(parse_seeds(asked.seeds)),
        shared=(*plugins, *words_of(asked, ("data", "network", "machine"))),
        tuned=tuple(tuned),
        split=asked.split,
    )


def main() -> None:
    asked = arguments()
    terminal.load_plugins(asked.plugin)
    study = make_study(asked)
    load(asked.dataset, asked.config, flags_tree(asked))  # complains about settings before any work

    from common.text import duration
    from comparison.comparing import tables_by_ratio
    from study.runner import check, plan_table, run_jobs
    from study.timing import Times

    jobs, times = study.jobs(), Times(study.dest)
    for job in jobs:
        check(job)
    if asked.dry_run:
        print(plan_table(jobs, times))
        return
    study.dest.mkdir(parents=True, exist_ok=True)
    failures = run_jobs(jobs, times, lambda line: print(line, flush=True))
    if any(job.result.is_file() for job in jobs):
        print("\n" + tables_by_ratio(study.dest, study.dataset, study.ratios, study.split))
    print(f"\nall runs below {study.dest} together took {duration(times.total)}")
    if failures:
        raise ValueError(f"{len(failures)} of {len(jobs)} runs failed; the same command tries them again")


if __name__ == "__main__":
    terminal.run(main)
