"""How often the bounds of contracts hold: two networks, and images of which samples are drawn.

All images of --split stand for the population, in which the second network loses so much against the first.
Samples are drawn from them with replacement, as large as a certificate's half, and each bounds the loss from
its own images alone, as a contract does. The share of samples whose bound is below the loss of all images
should be at most 1 - level. The split may be one that the networks were trained on: what is asked is how
images scatter.

usage: python3 -m benchmarks.bounds --dataset NAME --data-root FOLDER --dense FILE --pruned FILE
           [--split train] [--images 10,20,47] [--samples 300]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch

from common.names import BASELINE
from common.numbers import parse_numbers
from common.text import table
from configs.arguments import flags_tree, parser
from configs.load import load
from prune_utils.seeds import generator
from tasks.sums import ImageSums
from workflow import terminal
from workflow.experiment import Experiment, open_experiment
from workflow.judging import Fall, Judge, look
from workflow.limits import parse_limits
from workflow.networks import load_network, moved

Sums = dict[str, ImageSums]


def arguments() -> argparse.Namespace:
    words = parser(__doc__.splitlines()[0], "", ("data", "network", "contract", "machine"), ())
    words.add_argument("--dense", required=True, metavar="FILE", help="the network that is compared with")
    words.add_argument("--pruned", required=True, metavar="FILE", help="the network whose losses are bounded")
    words.add_argument("--split", default="train")
    words.add_argument("--images", default="10,20,47", help="in a sample")
    words.add_argument("--samples", type=int, default=300, help="of each size")
    return words.parse_args()


def judged(
    experiment: Experiment, limits: dict[str, float], both: Sequence[Sums], places: Sequence[int]
) -> dict[str, Fall]:
    """By limit, loss and bound from these images."""
    config = experiment.config
    dense, pruned = ({task: sums.among(places) for task, sums in of.items()} for of in both)
    judge = Judge(limits, experiment.tasks, dense, config.run.protocol, config.contract, config.run.seed)
    return judge.falls(pruned)


def main() -> None:
    asked = arguments()
    config = load(asked.dataset, asked.config, flags_tree(asked))
    sizes = parse_numbers("--images", asked.images, int)
    if asked.samples < 1 or min(sizes) < 2:
        raise ValueError(f"--images {asked.images} --samples {asked.samples}: at least 2 images and 1 sample")
    terminal.check_files(asked.dense, asked.pruned)
    terminal.check_data(config.data)
    experiment = open_experiment(config, BASELINE, asked.dest, None)
    limits = parse_limits(config.contract.max_drop or ("all=1",), experiment.tasks)
    networks = (load_network(experiment, Path(path)).network for path in (asked.dense, asked.pruned))
    both = [look(experiment, moved(experiment, one), asked.split) for one in networks]
    count = len(next(iter(both[0].values())))
    true = judged(experiment, limits, both, range(count))
    rows = []
    for size in sizes:
        chance = generator(config.run.seed, "samples", size)
        found = [
            judged(experiment, limits, both, torch.randint(count, (size,), generator=chance).tolist())
            for _ in range(asked.samples)
        ]
        for name, whole in true.items():
            if limits[name] == math.inf:
                continue
            over = sum(one[name].bound < whole.drop for one in found) / asked.samples
            width = sum(one[name].bound - one[name].drop for one in found) / asked.samples
            rows.append([str(size), name, f"{whole.drop + 0:.2f}", f"{width:.2f}", f"{100 * over:.1f} %"])
    head = ["images", "limit", f"lost, {count} images, %", "bound above drop", "bound too low"]
    print(table(rows, head))
    level = config.contract.level
    print(f"level {level:g}: at most {100 * (1 - level):g} % of the bounds should be too low")


if __name__ == "__main__":
    terminal.run(main)
