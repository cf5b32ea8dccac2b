# PYTHON_ARGCOMPLETE_OK
"""Make a sparse network: score every weight, keep exactly as many as asked, write the file."""

import argparse
from pathlib import Path

from common.command_line import described
from common.files import write_json
from common.text import files_table
from configs.arguments import EXPERIMENT, flags_text, flags_tree, parser
from configs.load import load
from configs.origins import settings_table
from prune_utils.methods import METHODS, method
from training.boards import PACKAGES
from workflow import terminal

EXAMPLES = """\
  python3 create_pruned_net.py --dataset nyuv2 --num_batches 50 --method disparse_static --ratio 90 --dest DIR
  python3 create_pruned_net.py --dataset nyuv2 --method disparse_pt --ratio 90 --dest DIR  (baseline first)
  python3 create_pruned_net.py --method random --budget erk --ratio 95 --config configs/tiny.yaml"""


COMMON = (
    *EXPERIMENT,
    "--config",
    "--set",
    "--num-batches",
    "--budget",
    "--preflight",
)


def arguments() -> argparse.Namespace:
    result = parser(
        __doc__,
        EXAMPLES + terminal.load_plugins(),
        ("data", "network", "pruning", "training", "machine"),
        COMMON,
    )
    method_flag = result.add_argument(
        "--method", default="disparse_static", metavar="NAME", help="see docs/methods.md"
    )
    described(method_flag, [name for name, row in METHODS.items() if not row.by_itself])
    result.add_argument("--init-from", metavar="FILE", help="weights to start from, not the method's own")
    trial = "only try everything in small, and estimate time and space (FILE: as JSON too)"
    result.add_argument("--preflight", nargs="?", const="", metavar="FILE", help=trial)
    result.add_argument("--overwrite", action="store_true", help="replace the file of an earlier run")
    result.add_argument("--resume", action="store_true", help="imp: go on with an interrupted run")
    result.add_argument("--export-published", metavar="FILE", help="also write the published form")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    row = method(asked.method)
    config = load(asked.dataset, asked.config, flags_tree(asked))
    if asked.print_config:
        print(settings_table(config, asked))
        return
    terminal.check_files(asked.init_from)
    terminal.check_targets(asked.dest, asked.export_published)
    terminal.check_data(config.data)
    terminal.check_packages(f"--logger {config.run.logger}", *PACKAGES.get(config.run.logger, ()))

    from workflow.create import create
    from workflow.experiment import open_experiment
    from workflow.files import Options
    from workflow.preflight import before_create, preflight_create

    experiment = open_experiment(config, row.name, asked.dest, asked.name, flags_text(asked))
    options = Options(asked.init_from, asked.overwrite, asked.resume, asked.export_published)
    if asked.preflight is not None:
        told = preflight_create(experiment, row, options)
        if experiment.fabric.is_global_zero:
            print(told.text)
            if asked.preflight:
                write_json(Path(asked.preflight), told.seconds)
        return
    with experiment.held():
        before_create(experiment, row, options)
        certificate, files = create(experiment, row, options)
    if experiment.fabric.is_global_zero:
        print(certificate)
        print(files_table(f"{experiment.name} is made. Train it with launch_training.py.", files))


if __name__ == "__main__":
    terminal.run(main)
