"""What one network loses against its dense network, on both halves of the validation images and on test.

For every task and each of its measures: drop and bound in percent, as a contract's certificate has them. A
script of `benchmarks.contract`, which reads any limits from the file.
"""

from __future__ import annotations

from pathlib import Path

from common.files import check_apart, write_json
from common.names import BASELINE
from configs.arguments import flags_tree, parser
from configs.load import load
from workflow import terminal
from workflow.contract_report import plain
from workflow.experiment import open_experiment
from workflow.judging import halves, judge, look
from workflow.networks import load_network, moved


def main() -> None:
    arguments = parser(__doc__, "", ("data", "network", "pruning", "contract", "training", "machine"))
    arguments.add_argument("--weights", required=True, metavar="FILE", help="the network")
    arguments.add_argument("--init-from", required=True, metavar="FILE", help="the dense network")
    arguments.add_argument("--out", required=True, metavar="FILE", help="JSON to write")
    asked = arguments.parse_args()
    check_apart(asked.out, "--out", asked.weights, asked.init_from)
    config = load(asked.dataset, asked.config, flags_tree(asked))
    experiment = open_experiment(config, BASELINE, asked.dest, None)
    tasks = experiment.tasks
    names = [name for task, of in tasks.items() for name in (task, *(f"{task}.{m}" for m in of.directions))]
    dense, network = (load_network(experiment, Path(file)) for file in (asked.init_from, asked.weights))
    seen, unseen = halves(len(experiment.records("val")), config.run.seed)
    losses = {}
    before, now = moved(experiment, dense.network), moved(experiment, network.network)
    for name, split, places in (
        ("search", "val", seen),
        ("certificate", "val", unseen),
        ("test", "test", None),
    ):
        judges = judge(experiment, dict.fromkeys(names, 1.0), before, split, places)
        losses[name] = plain(judges.falls(look(experiment, now, split, places)))
    proof = network.content["certificate"]
    write_json(Path(asked.out), {"kept": proof["kept"], "total": proof["total"], "losses": losses})


if __name__ == "__main__":
    terminal.run(main)
