# PYTHON_ARGCOMPLETE_OK
"""Train a network: the dense baseline, a sparse network that create_pruned_net.py made, or a dynamic one."""

import argparse
from pathlib import Path

from common.command_line import described
from common.files import check_apart, write_json
from common.names import BASELINE
from common.text import files_table
from configs.arguments import EXPERIMENT, flags_text, flags_tree, parser
from configs.load import load
from configs.origins import settings_table
from prune_utils.methods import METHODS
from training.boards import PACKAGES
from workflow import terminal

EXAMPLES = """\
  python3 launch_training.py --dataset nyuv2 --method baseline --dest DIR
  python3 launch_training.py --dataset nyuv2 --method disparse_static --ratio 90 --dest DIR  (create first)
  python3 launch_training.py --dataset nyuv2 --method disparse_dynamic --ratio 90 --dest DIR
  python3 launch_training.py --dataset nyuv2 --method baseline --dest DIR --resume"""


COMMON = (
    *EXPERIMENT,
    "--config",
    "--set",
    "--max-iters",
    "--preflight",
    "--resume",
)


def arguments() -> argparse.Namespace:
    result = parser(
        __doc__,
        EXAMPLES + terminal.load_plugins(),
        ("data", "network", "pruning", "training", "machine"),
        COMMON,
    )
    method_flag = result.add_argument(
        "--method",
        default="disparse_static",
        metavar="NAME",
        help="see docs/methods.md; baseline: dense",
    )
    described(method_flag, (BASELINE, *METHODS))
    result.add_argument("--init-from", metavar="FILE", help="start from these; a sparse file brings its mask")
    result.add_argument(
        "--export-published", metavar="FILE", help="also write the best weights in published form"
    )
    result.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    trial = "only try everything in small, and estimate time and space (FILE: as JSON too)"
    result.add_argument("--preflight", nargs="?", const="", metavar="FILE", help=trial)
    result.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    row = terminal.find_method(asked.method)
    flags = flags_tree(asked)
    config = load(asked.dataset, asked.config, flags)
    if asked.print_config:
        print(settings_table(config, asked))
        return
    terminal.check_files(asked.init_from)
    terminal.check_targets(asked.dest, asked.export_published)
    check_apart(asked.export_published, "--export-published", asked.init_from)
    check_apart(asked.preflight, "--preflight", asked.init_from)
    terminal.check_data(config.data)
    terminal.check_packages(f"--logger {config.run.logger}", *PACKAGES.get(config.run.logger, ()))

    from workflow.experiment import open_experiment
    from workflow.files import Options
    from workflow.launch import check_rewind_step, launch
    from workflow.preflight import before_launch, preflight_launch
    from workflow.pruning import flags_of, said_of_pruning

    if row is None:
        check_rewind_step(config)
    experiment = open_experiment(config, asked.method, asked.dest, asked.name, flags_text(asked))
    said = said_of_pruning(config, flags)
    if row is None and said:
        experiment.say(f"{flags_of(said)} would change nothing here: the dense network is not pruned")
    options = Options(asked.init_from, asked.overwrite, asked.resume, asked.export_published, said)
    if asked.preflight is not None:
        told = preflight_launch(experiment, row, options)
        if experiment.fabric.is_global_zero:
            print(told.text)
            if asked.preflight:
                write_json(Path(asked.preflight), told.seconds)
        return
    with experiment.held():
        before_launch(experiment, row, options)
        done, files = launch(experiment, row, options)
    if experiment.fabric.is_global_zero:
        print(files_table(done, files))


if __name__ == "__main__":
    terminal.run(main)
