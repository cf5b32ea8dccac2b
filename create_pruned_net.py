# PYTHON_ARGCOMPLETE_OK
"""Make a sparse network: score every weight, keep exactly as many as asked, write the file.

With --max-drop: the smallest network in which no task loses more than its limit (docs/contract.md).
"""

import argparse
from pathlib import Path

from common.command_line import described
from common.files import check_apart, write_json
from common.granularity import NEEDS
from common.text import files_table
from configs.arguments import EXPERIMENT, flags_text, flags_tree, parser
from configs.load import load
from configs.origins import settings_table
from configs.schema import Config
from prune_utils.methods import METHODS, Method, method
from training.boards import PACKAGES
from workflow import terminal

EXAMPLES = """\
  python3 create_pruned_net.py --dataset nyuv2 --num_batches 50 --method disparse_static --ratio 90 --dest DIR
  python3 create_pruned_net.py --dataset nyuv2 --method disparse_pt --ratio 90 --dest DIR  (baseline first)
  python3 create_pruned_net.py --method random --budget erk --ratio 95 --config configs/tiny.yaml
  python3 create_pruned_net.py --dataset nyuv2 --max-drop seg=1,sn=2 --dest DIR  (baseline first)"""


COMMON = (
    *EXPERIMENT,
    "--config",
    "--set",
    "--num-batches",
    "--budget",
    "--max-drop",
    "--preflight",
)
FREE = "disparse_static"  # the method where none is named; with --max-drop it is CONTRACT
CONTRACT = "disparse_pt"


def arguments() -> argparse.Namespace:
    result = parser(
        __doc__,
        EXAMPLES + terminal.load_plugins(),
        ("data", "network", "pruning", "contract", "training", "machine"),
        COMMON,
    )
    method_flag = result.add_argument("--method", metavar="NAME", help="see docs/methods.md")
    choices = [name for name, row in METHODS.items() if not row.by_itself]
    described(method_flag, choices, f"{FREE}, with --max-drop {CONTRACT}")
    result.add_argument("--init-from", metavar="FILE", help="weights to start from, not the method's own")
    trial = "only try everything in small, and estimate time and space (FILE: as JSON too)"
    result.add_argument("--preflight", nargs="?", const="", metavar="FILE", help=trial)
    result.add_argument("--overwrite", action="store_true", help="replace the file of an earlier run")
    result.add_argument(
        "--resume", action="store_true", help="imp, --retrain, --max-drop: go on with an interrupted run"
    )
    result.add_argument("--export-published", metavar="FILE", help="also write the published form")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    config = load(asked.dataset, asked.config, flags_tree(asked))
    limited = bool(config.contract.max_drop)
    row = method(asked.method or (CONTRACT if limited else FREE))
    if asked.print_config:
        print(settings_table(config, asked))
        return
    terminal.check_files(asked.init_from)
    terminal.check_targets(asked.dest, asked.export_published)
    check_apart(asked.export_published, "--export-published", asked.init_from)
    check_apart(asked.preflight, "--preflight", asked.init_from)
    terminal.check_data(config.data)
    unit = config.prune.granularity
    terminal.check_packages(f"--granularity {unit}", *NEEDS.get(unit, ()))
    if not limited:  # the runs of a contract are shown on no board
        terminal.check_packages(f"--logger {config.run.logger}", *PACKAGES.get(config.run.logger, ()))
    if config.contract.of != "size" and not limited:
        raise ValueError(f"--of {config.contract.of} is for --max-drop: give limits, or leave it out")
    if asked.level is not None and not limited:
        raise ValueError(f"--level {asked.level} is for --max-drop: give limits, or leave it out")

    from workflow.create import create, row_asked

    row = row_asked(config, row)
    if limited:
        fulfil_contract(asked, config, row)
        return

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


def fulfil_contract(asked: argparse.Namespace, config: Config, row: Method) -> None:
    """The smallest network that keeps the limits of --max-drop; status 1 where there is none."""
    if asked.ratio is not None:
        raise ValueError(f"--max-drop decides the ratio: leave --ratio {asked.ratio} out")
    if asked.preflight is not None:
        raise ValueError("--preflight knows nothing of --max-drop: leave one of them out")

    from workflow.contract import Unkept, contract_name, fulfil
    from workflow.experiment import open_experiment
    from workflow.files import Options

    name = asked.name or contract_name(asked.dataset, row.name)
    experiment = open_experiment(config, row.name, asked.dest, name, flags_text(asked))
    options = Options(asked.init_from, asked.overwrite, asked.resume, asked.export_published)
    try:
        with experiment.held():
            report, files = fulfil(experiment, row, options)
    except Unkept as error:
        terminal.unmet(str(error))
    print(report)
    print(files_table(f"{name} keeps its limits. eval_pruned_net.py --contract checks them again.", files))


if __name__ == "__main__":
    terminal.run(main)
