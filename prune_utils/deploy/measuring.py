"""One runtime on one network, measured in a process of its own: latency, memory, error of the outputs."""

from __future__ import annotations

import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from models.multitask import MultiTaskNet

from .graph import Conv, read_network
from .runtimes import OURS, Run, Runtime, find_runtime
from .source import build_network, read_saved

SECONDS = 3.0  # that a runtime is measured for, at least
RUNS = (9, 200)  # fewest and most runs


def timed(run: Run, seconds: float = SECONDS) -> dict[str, float]:
    """median, low and high (deciles) and best in milliseconds, after two runs that do not count."""
    run(), run()
    times, start = [], time.perf_counter()
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


def kept_operations(network: MultiTaskNet, image: Tensor) -> dict[str, float]:
    """Billions of multiply-adds for this image: of all weights, and of the kept ones."""
    graph = read_network(network)
    shapes, total, kept = {"image": image.shape[-2:]}, 0, 0
    for node in graph.nodes:
        height, width = shapes[node.input]
        if isinstance(node, Conv):
            reach = node.dilation * (node.weight.shape[2] - 1) + 1 - 2 * node.padding
            height, width = (height - reach) // node.stride + 1, (width - reach) // node.stride + 1
            total += node.weight.numel() * height * width
            kept += int(torch.count_nonzero(node.weight)) * height * width
        else:
            height, width = -(-(height - 1) // node.stride) + 1, -(-(width - 1) // node.stride) + 1
        shapes[node.name] = height, width
    return {"all": total * len(image) / 1e9, "kept": kept * len(image) / 1e9}


@torch.inference_mode()
def peak_rate() -> float:
    """Billions of fp32 multiply-adds a second that a dense 1x1 convolution reaches on this many threads."""
    layer = torch.nn.Conv2d(1024, 1024, 1).to(memory_format=torch.channels_last)
    image = torch.randn(1, 1024, 48, 48).contiguous(memory_format=torch.channels_last)
    return 1024 * 1024 * 48 * 48 / timed(lambda: layer(image), 1.0)["best"] / 1e6


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference as a share of the output's range, the worst of the tasks."""
    return max(
        float((found[task].float() - value).abs().max() / (value.max() - value.min()).clamp_min(1e-30))
        for task, value in expected.items()
    )


def _ready(path: str, runtime: Runtime, image: Tensor, threads: int) -> tuple[Run, dict]:
    """(the runtime's run, what is known before measuring); nothing else of the network stays in memory."""
    network = build_network(read_saved(Path(path)), path)
    expected, known = network(image), {}
    if runtime.label == OURS:
        known = {"peak": peak_rate(), "operations": kept_operations(network, image)}
    run = runtime.make(network, image, threads)
    return run, known | {"difference": _difference(run(), expected)}


def measure_here(path: str, label: str, cases: list[tuple[int, int, int]]) -> list[dict]:
    """One row for each case (batch, threads, size) here. memory: beyond the idle process's."""
    runtime, rows = find_runtime(label), []
    idle = resident_mebibytes()
    for batch, threads, size in cases:
        torch.set_num_threads(threads)
        row = {"runtime": label, "kind": runtime.kind, "batch": batch, "threads": threads, "size": size}
        with torch.no_grad():  # inference_mode would keep torch.compile from freezing the weights
            run, known = _ready(path, runtime, example_image(batch, size), threads)
            gc.collect()
            row |= known | {"milliseconds": timed(run), "memory": resident_mebibytes() - idle}
        rows.append(row)
        del run
    return rows


def measure(path: Path, label: str, cases: list[tuple[int, int, int]]) -> list[dict]:
    """measure_here in a fresh process. ValueError with its last line where that fails."""
    command = [sys.executable, "-m", "prune_utils.deploy.measuring", str(path), label, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ValueError(f"{label} could not be measured: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def speedup(rows: list[dict], kind: str) -> float | None:
    """How many times faster the engine is than the fastest runtime of a kind: medians, rows of one case."""
    ours = [row["milliseconds"]["median"] for row in rows if row["runtime"] == OURS]
    theirs = [row["milliseconds"]["median"] for row in rows if row["kind"] == kind]
    return min(theirs) / ours[0] if ours and theirs else None


if __name__ == "__main__":
    print(
        json.dumps(measure_here(sys.argv[1], sys.argv[2], [tuple(case) for case in json.loads(sys.argv[3])]))
    )
