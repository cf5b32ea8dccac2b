"""The table of latencies that a contract goes by: read from a file, or measured once before the search."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.files import read_json
from configs.schema import Config
from models.multitask import MultiTaskNet
from prune_utils.deploy.measuring import latency_in
from prune_utils.deploy.runtimes import RUNTIMES, Runtime, find_runtime
from prune_utils.granularity import find_granularity
from prune_utils.latencies import measure_sizes, thinned

from .experiment import Experiment

Table = dict[int, float]  # size -> milliseconds
PREFIX = "latency:"


def runtime_of(config: Config) -> Runtime | None:
    """The runtime whose latency is to become small; None = sizes are."""
    word = config.contract.of
    return find_runtime(word.removeprefix(PREFIX)) if word.startswith(PREFIX) else None


def check_latency(config: Config, known: bool = False) -> None:
    """ValueError or OSError for a runtime that there is not, or that nothing makes faster, and for a table
    that is none. known: whether the search has its table already, and needs neither file nor package."""
    runtime, given = runtime_of(config), config.contract.latencies
    if runtime is None:
        if given is not None:
            raise ValueError(f"contract.latencies {given} is a table for --of latency:RUNTIME: leave it out")
        return
    unit = find_granularity(config.prune.granularity)
    if not (runtime.skips or unit.removes):
        ours = ", ".join(f"latency:{row.word}" for row in RUNTIMES if row.skips)
        raise ValueError(
            f"{runtime.label} multiplies pruned weights like others, so --granularity {unit.name} makes "
            f"nothing faster in it: give --of {ours}, or --granularity channel"
        )
    if known:
        return
    if given is not None:
        stated(Path(given), runtime)
        return
    if missing := runtime.missing:
        first = missing[0]
        raise ValueError(f"{runtime.label} needs the package {first}: python3 -m pip install {first}")


def stated(path: Path, runtime: Runtime) -> dict[str, Any]:
    """The table of a file, or of a certificate, for this runtime. FileNotFoundError, or ValueError for a file
    that holds none."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with latencies")
    content = read_json(path)
    content = content.get("latency", content) if isinstance(content, dict) else {}
    try:
        columns = content["sizes"], content["milliseconds"]
        table = dict(zip(map(int, columns[0]), map(float, columns[1]), strict=True))
    except (LookupError, TypeError, ValueError):
        raise ValueError(
            f"{path} holds no latencies: lists sizes and milliseconds, as long as each other"
        ) from None
    if content.get("runtime") != runtime.word:
        raise ValueError(f"{path} holds latencies in {content.get('runtime')}, not in {runtime.word}")
    return content | {"sizes": list(table), "milliseconds": list(table.values())}


def measured(
    experiment: Experiment, sizes: tuple[int, ...], pruned: Callable[[int], MultiTaskNet]
) -> dict[str, Any]:
    """The table for some of these sizes, as the search's state and the certificate hold it.

    pruned(size): the dense network, pruned and not trained, in main memory and free to be changed.
    """
    runtime = runtime_of(experiment.config)
    assert runtime is not None
    rows, columns = experiment.evaluation_size()
    image = 60 * torch.randn(1, 3, rows, columns, generator=torch.Generator().manual_seed(0))
    chosen = thinned(sizes)
    experiment.say(f"measuring {len(chosen)} sizes in {runtime.label}, once")
    found = measure_sizes(chosen, pruned, latency_in(runtime.label, image))
    return {
        "runtime": runtime.word,
        "threads": torch.get_num_threads(),
        "image": [rows, columns],
        "machine": f"{platform.system()} {platform.machine()}",
        "sizes": list(found),
        "milliseconds": list(found.values()),
    }


def table_of(content: dict[str, Any]) -> Table:
    """size -> milliseconds."""
    return dict(zip(content["sizes"], content["milliseconds"], strict=True))
