"""How sparse the CPU engine must be to be as quick as a network without some of its channels.

    python3 -m benchmarks.channels DENSE SMALLER... --size 120x160 --threads 1 --dest FILE

A smaller network (--granularity channel) is as quick as the fastest dense fp32 runtime makes it, of those
that are installed. The dense network's weights are pruned by magnitude until our engine takes that long: the
ratio, to a tenth of a percent, goes into FILE (JSON) with all times, for a comparison of scores at equal
latency (docs/granularity.md). Times are medians; the machine should be quiet.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.command_line import Parser
from common.files import write_json
from common.text import table
from prune_utils.budgets import global_budget, keep_count
from prune_utils.choosing import choose
from prune_utils.deploy.measuring import latency_in
from prune_utils.deploy.runtimes import OURS, RUNTIMES, Runtime, find_runtime
from prune_utils.masks import apply, prunable, size
from workflow import terminal
from workflow.saved import load_network

from .measure import machine

SECONDS = 1.0  # that a run is measured for, at least
LEFT_OUT = "PyTorch compiled"  # takes minutes to get ready
LEAST, MOST, STEP = 0.0, 99.0, 0.1  # percent


def dense_runtimes() -> list[Runtime]:
    """Those of 32 bits that are installed."""
    return [
        runtime
        for runtime in RUNTIMES
        if runtime.kind == "fp32" and runtime.label != LEFT_OUT and not runtime.missing
    ]


def milliseconds(runtime: Runtime, network: nn.Module, image: Tensor, threads: int) -> float:
    """Median latency of one image [1, 3, rows, columns]."""
    torch.set_num_threads(threads)
    return latency_in(runtime.label, image, threads, SECONDS)(copy.deepcopy(network))


def pruned(network: nn.Module, ratio: float) -> nn.Module:
    """A copy without so many percent of its weights, the smallest of all."""
    network = copy.deepcopy(network)
    weights = {name: weight.detach().abs() for name, weight in prunable(network).items()}
    budget = global_budget({name: of.shape for name, of in weights.items()}, keep_count(size(weights), ratio))
    apply(network, choose({"magnitude": weights}, budget, "unanimous"))
    return network


def equal_ratio(latency: Callable[[float], float], wanted: float) -> float | None:
    """The smallest ratio, to STEP, at which a latency that falls with it is at most `wanted`; None = at none.

    >>> equal_ratio(lambda ratio: 100 - ratio, 20.0)
    80.0
    """
    low, high = round(LEAST / STEP), round(MOST / STEP)
    if latency(MOST) > wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        if latency(round(middle * STEP, 1)) <= wanted:
            high = middle
        else:
            low = middle + 1
    return round(high * STEP, 1)


def compare(dense: nn.Module, smaller: nn.Module, image: Tensor, threads: int) -> dict[str, Any]:
    """Latencies of a smaller network by runtime, of the engine by ratio, and the ratio of equal latency."""
    times = {runtime.label: milliseconds(runtime, smaller, image, threads) for runtime in dense_runtimes()}
    wanted, engine = min(times.values()), dict[float, float]()

    def latency(ratio: float) -> float:
        if ratio not in engine:
            engine[ratio] = milliseconds(find_runtime(OURS), pruned(dense, ratio), image, threads)
        return engine[ratio]

    ratio = equal_ratio(latency, wanted)
    return {
        "milliseconds": times,
        "fastest": min(times, key=times.__getitem__),
        "engine": engine,
        "ratio": ratio,
    }


def arguments() -> argparse.Namespace:
    result = Parser(description=__doc__)
    result.add_argument("dense", metavar="DENSE", help="saved network whose weights are pruned")
    result.add_argument("smaller", nargs="+", metavar="SMALLER", help="saved networks that lost channels")
    result.add_argument("--size", default="120x160", metavar="ROWSxCOLUMNS", help="of the image")
    result.add_argument("--threads", type=int, default=1, metavar="N", help="of the processor")
    result.add_argument("--dest", required=True, metavar="FILE", help="JSON file for what was found")
    return result.parse_args()


def main() -> None:
    asked = arguments()
    parts = asked.size.split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--size '{asked.size}' is not ROWSxCOLUMNS, such as 120x160")
    terminal.check_targets(asked.dest)
    image = 60 * torch.randn(1, 3, *map(int, parts), generator=torch.Generator().manual_seed(0))
    dense = load_network(asked.dense)
    whole = {run.label: milliseconds(run, dense, image, asked.threads) for run in dense_runtimes()}
    found = {
        Path(path).stem: compare(dense, load_network(path), image, asked.threads) for path in asked.smaller
    }
    about = {"size": asked.size, "threads": asked.threads, "machine": machine(asked.threads), "dense": whole}
    write_json(Path(asked.dest), about | {"smaller": found})
    rows = []
    for name, one in found.items():
        ratio = "none" if one["ratio"] is None else f"{one['ratio']:g} %"
        quickest = (min(times.values()) for times in (one["milliseconds"], whole))
        rows.append((name, one["fastest"], *(f"{time:.2f}" for time in quickest), ratio))
    print(table(rows, ("network", "fastest in", "ms", "dense ms", "weights as quick at")))


if __name__ == "__main__":
    terminal.run(main)
