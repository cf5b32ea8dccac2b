# PYTHON_ARGCOMPLETE_OK
"""How much of a mask is the choice of its batches: masks and ranks from two disjoint sets of them."""

from __future__ import annotations

from argparse import Namespace

from common.numbers import parse_numbers, parse_seeds
from common.text import files_table
from configs.arguments import FLAGS, SWITCHES, flags_tree, parser
from configs.load import Tree, load
from configs.origins import settings_table
from configs.schema import Config
from prune_utils.methods import Method, method
from prune_utils.text import not_one_of
from workflow import terminal

from .unused import LEAVE, refuse_unused

EXAMPLES = """\
  python3 -m agreement.noise --dataset nyuv2 --seeds 2
  python3 -m agreement.noise --dataset nyuv2 --batches 1,10,50 --methods snip --budgets erk --ratio 90"""
COMMON = ("--dataset", "--data-root", "--dest", "--config", "--set", "--ratio", "--batches", "--seeds")
METHODS = ("disparse_static", "snip")
UNUSED = {  # settings of pruning that this command does not read -> what to do instead
    "budget": "--budgets {} names those to compare",
    "num_batches": "--batches {} says how many are in a set",
    **dict.fromkeys(("channel_multiple", "pt_criterion", "rounds", "retrain", "round_iterations"), LEAVE),
    **dict.fromkeys(("shuffle", "start_from", "rewind_step", "start_mask"), LEAVE),
}


def arguments() -> Namespace:
    groups = ("data", "network", "pruning", "machine")
    result = parser(__doc__ or "", EXAMPLES + terminal.load_plugins(), groups, COMMON)
    result.prog = "python3 -m agreement.noise"
    add = result.add_argument_group("noise of scores").add_argument
    add("--batches", default="1,2,5,10,20,50,200", metavar="N,N", help="batches in each of the two sets")
    add("--methods", default=",".join(METHODS), metavar="NAME,NAME", help="whose masks")
    add("--budgets", default="global,erk", metavar="NAME,NAME", help="with which budgets")
    add("--seeds", default="1", metavar="N|A,B", help="how many from --seed on, or a list")
    add("--overwrite", action="store_true", help="replace the files of an earlier run")
    return result.parse_args()


def _words(flag: str, text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise ValueError(f"{flag} needs at least one name, such as {flag} {METHODS[0]}")
    return words


def _methods(text: str) -> tuple[Method, ...]:
    """ValueError unless every method makes its mask from one round of |w g|, before training."""
    rows = tuple(method(name) for name in _words("--methods", text))
    for row in rows:
        if (row.setup, row.criterion, row.rounds) != ("static", "snip", 1):
            raise ValueError(
                not_one_of("--methods", row.name, METHODS) + ": noise is that of one round of |w g|, unpruned"
            )
    return rows


def _sizes(text: str) -> tuple[int, ...]:
    sizes = parse_numbers("--batches", text, int)
    if 0 in sizes:
        raise ValueError(f"--batches needs whole numbers of at least 1, not '{text}'")
    return tuple(sorted(sizes))


def _check(config: Config, given: Tree) -> None:
    """ValueError for a setting that the comparison of masks does not know. given: as of `refuse_unused`."""
    refuse_unused(given, UNUSED, FLAGS | SWITCHES)
    prune = config.prune
    for flag, value, only in (
        ("--keep-ratio", prune.keep_ratio, None),
        ("--granularity", prune.granularity, "weight"),
        ("--criterion", prune.criterion, None),
        ("--voters", prune.voters, None),
    ):
        if value != only:
            raise ValueError(
                f"noise of scores is measured for |w g| of single weights, leave out {flag} {value}"
            )


def main() -> None:
    asked = arguments()
    config = load(asked.dataset, asked.config, flags_tree(asked))
    if asked.print_config:
        print(settings_table(config, asked, None))
        return
    _check(config, flags_tree(asked))
    rows, sizes = _methods(asked.methods), _sizes(asked.batches)
    seeds, budgets = tuple(parse_seeds(asked.seeds, config.run.seed)), _words("--budgets", asked.budgets)
    terminal.check_targets(asked.dest)
    terminal.check_packages("the picture of the noise", "matplotlib")
    terminal.check_data(config.data)  # before the slow imports

    from workflow.experiment import open_experiment
    from workflow.files import Options, refuse_existing

    from .noise_files import paths, tables, write
    from .scatter import Question, measure

    experiment = open_experiment(config, "noise", asked.dest, asked.name or f"{asked.dataset}_noise")
    where = paths(experiment.dest, experiment.name)
    with experiment.held():
        refuse_existing(list(where.values()), Options(overwrite=asked.overwrite))
        result = measure(experiment, Question(seeds, sizes, rows, budgets))
        files = write(result, where)
    print(tables(result))
    print(files_table(f"{experiment.name} is done.", files))


if __name__ == "__main__":
    terminal.run(main)
