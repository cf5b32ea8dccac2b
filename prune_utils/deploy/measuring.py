"""One runtime on one network, measured in a process of its own: latency, memory, error of the outputs."""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .comparing import worst_difference
from .memory import give_back
from .plain import PlainNet
from .reading import read_network
from .runtimes import OURS, Run, Runtime, find_runtime

SECONDS = 3.0  # that a runtime is measured for, at least
RUNS = (9, 200)  # fewest and most runs


def timed(run: Run, seconds: float = SECONDS) -> dict[str, float]:
    """median, low and high (deciles) and best in milliseconds, after two runs that do not count."""
    run(), run()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < RUNS[0] or (time.perf_counter() - start < seconds and len(times) < RUNS[1]):
        before = time.perf_counter()
        run()
        times.append((time.perf_counter() - before) * 1e3)
    deciles = statistics.quantiles(times, n=10)
    return {
        "median": statistics.median(times),
        "low": deciles[0],
        "high": deciles[-1],
        "best": min(times),
        "runs": len(times),
    }


def latency_in(
    runtime: str, image: Tensor, threads: int | None = None, seconds: float = 0.5
) -> Callable[[nn.Module], float]:
    """What gives a network's median milliseconds for this image in a runtime; pruned weights are 0 in it.

    runtime: a label of RUNTIMES, or its word ("sparse-engine", "onnxruntime", "openvino", ...). threads: of
    the processor, None = as many as PyTorch uses. The network is changed: give a copy. Raises ValueError for
    a runtime that there is not.
    """
    row = find_runtime(runtime)

    def latency(network: nn.Module) -> float:
        with torch.no_grad():
            run = row.make(network.eval(), image, threads or torch.get_num_threads())
            return timed(run, seconds)["median"]

    return latency


def resident_mebibytes() -> float:
    """Memory that this process holds now; the most that it ever held where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def example_image(batch: int, size: int) -> Tensor:
    """[batch, 3, size, size] of noise about as large as mean-free pixels."""
    return 60 * torch.randn((batch, 3, size, size), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def kept_operations(network: nn.Module, image: Tensor) -> dict[str, float]:
    """Billions of multiply-adds for this image: of all weights, and of the kept ones.

    Convolutions and linear layers that the engines know; others are not counted.
    """
    graph = read_network(network)
    net, found = PlainNet(graph), {"all": 0.0, "kept": 0.0}
    weights = {node.name: node.weight for node in graph.convolutions()}

    def count(name: str, output: Tensor) -> None:
        pixels = output.numel() / len(weights[name]) / 1e9
        found["all"] += weights[name].numel() * pixels
        found["kept"] += int(torch.count_nonzero(weights[name])) * pixels

    for name, layer in net.layers.items():
        layer.register_forward_hook(lambda _, __, output, name=name: count(name, output))
    net(image)
    return found


@torch.inference_mode()
def peak_rate() -> float:
    """Billions of fp32 multiply-adds a second that a dense 1x1 convolution reaches on this many threads."""
    layer = torch.nn.Conv2d(1024, 1024, 1).to(memory_format=torch.channels_last)
    image = torch.randn(1, 1024, 48, 48).contiguous(memory_format=torch.channels_last)
    return 1024 * 1024 * 48 * 48 / timed(lambda: layer(image), 1.0)["best"] / 1e6


def load_by(loader: str, path: str) -> nn.Module:
    """The network of a file by a "module:function" that is given the path; ValueError where there is none."""
    module, _, name = loader.partition(":")
    try:
        load = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"'{loader}' names no function of an importable module: {error}") from error
    return load(path).eval()


def _ready(
    path: str, loader: str, runtime: Runtime, image: Tensor, threads: int
) -> tuple[Run, dict[str, Any]]:
    """(the runtime's run, what is known before measuring); nothing else of the network stays in memory."""
    network = load_by(loader, path)
    expected = network(image)
    known: dict[str, Any] = {}
    if runtime.label == OURS:
        known = {"peak": peak_rate(), "operations": kept_operations(network, image)}
    run = runtime.make(network, image, threads)
    return run, known | {"difference": worst_difference(run(), expected)}


def measure_here(
    path: str, label: str, cases: Sequence[tuple[int, int, int]], loader: str
) -> list[dict[str, Any]]:
    """One row for each case (batch, threads, size) here. memory: beyond the idle process's.

    loader: "module:function" that gives the network of the file, its pruned weights 0.
    """
    runtime = find_runtime(label)
    rows: list[dict[str, Any]] = []
    idle = resident_mebibytes()
    for batch, threads, size in cases:
        torch.set_num_threads(threads)
        row: dict[str, Any] = {
            "runtime": label,
            "kind": runtime.kind,
            "batch": batch,
            "threads": threads,
            "size": size,
        }
        with torch.no_grad():  # inference_mode would keep torch.compile from freezing the weights
            run, known = _ready(path, loader, runtime, example_image(batch, size), threads)
            give_back()
            row |= known | {"milliseconds": timed(run), "memory": resident_mebibytes() - idle}
        rows.append(row)
        del run
    return rows


def measure(
    path: Path, label: str, cases: Sequence[tuple[int, int, int]], loader: str
) -> list[dict[str, Any]]:
    """measure_here in a fresh process. ValueError with its last line where that fails."""
    words = [str(path), label, json.dumps(cases), loader]
    command = [sys.executable, "-m", "prune_utils.deploy.measuring", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"{label} could not be measured: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def speedup(rows: Sequence[dict[str, Any]], kind: str, label: str = OURS) -> float | None:
    """How many times faster a runtime is than the fastest one of a kind: medians, rows of one case."""
    ours = [row["milliseconds"]["median"] for row in rows if row["runtime"] == label]
    theirs = [row["milliseconds"]["median"] for row in rows if row["kind"] == kind]
    return min(theirs) / ours[0] if ours and theirs else None


if __name__ == "__main__":
    file, wanted, cases, loader = sys.argv[1:]
    print(json.dumps(measure_here(file, wanted, [tuple(case) for case in json.loads(cases)], loader)))
