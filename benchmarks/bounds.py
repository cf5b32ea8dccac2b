"""How often the bounds of contracts hold: two networks, and images of which samples are drawn.

All images of --split stand for the population, in which the second network loses so much against the first.
Samples are drawn from them with replacement, as large as a certificate's half, and each bounds the loss from
its own images alone, as a contract does. The share of samples whose bound is below the loss of all images
should be at most 1 - level. The split may be one that the networks were trained on: what is asked is how
images scatter. A bound that is infinite (a sample without an image that counts) is never too low.

usage: python3 -m benchmarks.bounds --dataset NAME --data-root FOLDER --dense FILE --pruned FILE
           [--config FILE] [--split train] [--images 10,20,47] [--samples 300] [--limits all]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from benchmarks.settings import settings_of
from common.command_line import Parser
from common.names import BASELINE
from common.numbers import parse_numbers
from common.text import table
from configs.schema import Config
from prune_utils.bootstrap import check_level
from prune_utils.seeds import generator, mix_seed
from tasks.sums import ImageSums
from workflow import terminal
from workflow.experiment import Experiment, open_experiment
from workflow.judging import Fall, Judge, look
from workflow.limits import parse_limits
from workflow.networks import load_network, moved

Sums = dict[str, ImageSums]


def arguments() -> tuple[argparse.Namespace, Config]:
    words = Parser(description=__doc__.splitlines()[0])
    add = words.add_argument
    add("--dataset", required=True)
    add("--data-root")
    add("--config", action="append", default=[], help="repeatable")
    add("--set", action="append", default=[], help="one setting, repeatable")
    add("--dense", required=True, metavar="FILE", help="the network that is compared with")
    add("--pruned", required=True, metavar="FILE", help="the network whose losses are bounded")
    add("--split", default="train")
    add("--images", default="10,20,47", help="in a sample")
    add("--samples", type=int, default=300, help="of each size")
    add("--limits", default="all", help="what is bounded: tasks, or measures as seg.mIoU")
    asked = words.parse_args()
    config = settings_of(asked, "--data-root")
    asked.images = parse_numbers("--images", asked.images, int)
    if min(asked.images) < 2:
        words.error(f"--images {min(asked.images)} is not at least 2")
    if asked.samples < 1:
        words.error(f"--samples {asked.samples} is not at least 1")
    check_level(config.contract.level, config.contract.resamples)
    terminal.check_files(asked.dense, asked.pruned)
    terminal.check_data(config.data)
    return asked, config


class Population:
    """What two networks say of every image of a split. limits: names of what is bounded."""

    def __init__(self, experiment: Experiment, networks: Sequence[Path], split: str, limits: str) -> None:
        if experiment.fabric.world_size > 1:
            raise ValueError("one device is enough: leave run.devices out")
        self.experiment = experiment
        asked = [name if "=" in name else f"{name}=1" for name in limits.split(",")]
        tasks = {name.partition("=")[0].partition(".")[0] for name in asked}
        asked += [f"{task}=none" for task in experiment.tasks if not tasks & {task, "all"}]
        self.limits = parse_limits(asked, experiment.tasks)
        loaded = [load_network(experiment, path).network for path in networks]
        self.sums: list[Sums] = [look(experiment, moved(experiment, one), split) for one in loaded]
        self.images = len(next(iter(self.sums[0].values())))

    def falls(self, places: Sequence[int], seed: int = 0, check: bool = False) -> dict[str, Fall]:
        """By limit, loss and bound from these images, as a contract has them.

        seed: of the resamples. check: ValueError where nothing is a percentage of the first network's scores.
        """
        config, tasks = self.experiment.config, self.experiment.tasks
        dense, pruned = ({task: sums.among(places) for task, sums in of.items()} for of in self.sums)
        judge = Judge(self.limits, tasks, dense, config.run.protocol, config.contract, seed)
        if check:
            judge.check()
        falls = judge.falls(pruned)
        return {name: falls[name] for name, limit in self.limits.items() if limit < math.inf}


def sampled(population: Population, size: int, samples: int, seed: int) -> list[dict[str, Fall]]:
    """The falls of so many samples of so many images, each with resamples of its own."""
    chance = generator(seed, "samples", size)
    found = []
    for number in tqdm(range(samples), desc=f"samples of {size}", leave=False):
        places = torch.randint(population.images, (size,), generator=chance).tolist()
        found.append(population.falls(places, mix_seed(seed, "bounds", number) % 2**32))
    return found


def rows(true: dict[str, Fall], found: Sequence[dict[str, Fall]], size: int) -> list[list[str]]:
    """A row for each limit: what is lost, how far bounds are above drops, and which are no bounds."""
    table_rows = []
    for name, whole in true.items():
        bounds = [one[name].bound for one in found]
        low = sum(bound < whole.drop for bound in bounds) / len(found)
        wide = median(
            one[name].bound - one[name].drop if one[name].bound < math.inf else math.inf for one in found
        )
        figures = [f"{whole.drop + 0:.2f}", f"{wide:.2f}", f"{100 * low:.1f} %", str(bounds.count(math.inf))]
        table_rows.append([str(size), name, *figures])
    return table_rows


def main() -> None:
    asked, config = arguments()
    experiment = open_experiment(config, BASELINE, ".", None)
    population = Population(experiment, [Path(asked.dense), Path(asked.pruned)], asked.split, asked.limits)
    true, told = population.falls(range(population.images), check=True), []
    for size in asked.images:
        told += rows(true, sampled(population, size, asked.samples, config.run.seed), size)
    lost = f"lost, {population.images} images, %"
    print(table(told, ["images", "limit", lost, "bound above drop", "too low", "infinite"]))
    level = config.contract.level
    print(f"level {level:g}: at most {100 * (1 - level):g} % of the bounds should be too low")


if __name__ == "__main__":
    terminal.run(main)
