"""Compare the CPU engine with dense runtimes: latency, throughput, memory, file size, and a picture.

    python3 -m prune_utils.deploy.benchmark FILE --network MODULE:FUNCTION
    python3 -m prune_utils.deploy.benchmark FILE FILE ... --network MODULE:FUNCTION     also speed against
    sparsity

FUNCTION is given a FILE and returns the network that it holds, for images [N, 3, H, W], pruned weights 0.
Bars for batch 1 and 8, one and two threads. Every runtime is measured in a process of its own; runtimes that
are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import replacing
from ..sparse_file import save_sparse
from ..text import duration, not_one_of
from .charts import latency_bars, speed_curve
from .measuring import load_by, measure, speedup
from .packages import need
from .runtimes import OURS, OURS_BF16, REFERENCE, RUNTIMES


def arguments(words: list[str] | None, loader: str | None, about: tuple[str, str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog=f"python3 -m {about[0]}",
        description=about[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("files", nargs="+", metavar="FILE", help="saved networks of one architecture")
    result.add_argument("--size", type=int, default=321, help="height and width of the image (321)")
    result.add_argument("--batch", type=int, nargs="+", default=[1, 8], metavar="N", help="batch sizes (1 8)")
    result.add_argument("--threads", type=int, nargs="+", default=[2, 1], metavar="N", help="threads (2 1)")
    result.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"of {', '.join(r.label for r in RUNTIMES)}"
    )
    result.add_argument(
        "--network", default=loader, required=loader is None, metavar="MODULE:FUNCTION", help="reads a FILE"
    )
    result.add_argument("--dest", default="outputs", metavar="DIR", help="where results go (outputs)")
    return result.parse_args(words)


def _chosen(only: list[str] | None) -> list[str]:
    """Labels to measure; says which are left out because their package is missing."""
    labels = [runtime.label for runtime in RUNTIMES]
    for label in only or []:
        if label not in labels:
            raise ValueError(not_one_of("runtime", label, labels))
    chosen = []
    for runtime in RUNTIMES:
        if only and runtime.label not in only:
            continue
        if missing := runtime.missing:
            print(f"{runtime.label} is left out: python3 -m pip install {' '.join(missing)}", file=sys.stderr)
        else:
            chosen.append(runtime.label)
    return chosen


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Its weights of two or more dimensions, by name."""
    return {name: value.detach() for name, value in network.named_parameters() if value.dim() > 1}


def sparsity(network: nn.Module) -> float:
    """Percent of the weights of two or more dimensions that are 0."""
    weights = weights_of(network).values()
    total = sum(value.numel() for value in weights)
    return 100 * (1 - sum(int(torch.count_nonzero(value)) for value in weights) / total)


def file_sizes(network: nn.Module) -> dict[str, int]:
    """Bytes of the network as a dense state dict and as sparse files of 32 and 16 bits."""
    sizes = {"dense": sum(value.numel() * value.element_size() for value in network.state_dict().values())}
    mask = {name: value != 0 for name, value in weights_of(network).items()}
    with tempfile.TemporaryDirectory() as folder:
        for name, half in (("sparse", False), ("sparse half", True)):
            path = Path(folder) / "network.safetensors"
            save_sparse(path, network, mask, half=half)
            sizes[name] = path.stat().st_size
    return sizes


def _measured(
    work: list[tuple[str, str, list[tuple[int, int, int]]]], loader: str
) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(file, runtime) -> its rows, one after the other; says which is at work, and about how long is left."""
    found, begin = {}, time.monotonic()
    total = sum(len(cases) for _, _, cases in work)
    done = 0
    for path, label, cases in work:
        spent = time.monotonic() - begin
        left = f", about {duration(spent / done * (total - done))} to go" if done else ""
        print(f"[{done}/{total}] {Path(path).name}, {label}{left}", file=sys.stderr, flush=True)
        found[path, label] = measure(Path(path), label, cases, loader)
        done += len(cases)
    print(f"[{total}/{total}] measured in {duration(time.monotonic() - begin)}", file=sys.stderr)
    return found


def _line(row: dict[str, Any], reference: float) -> str:
    time = row["milliseconds"]
    return (
        f"  {row['runtime']:<23} {time['median']:8.1f} ms  {time['low']:8.1f} to {time['high']:8.1f}  "
        f"{1000 * row['batch'] / time['median']:7.2f} images/s  {row['memory']:6.0f} MiB  "
        f"{reference / time['median']:5.2f}x  off by {row['difference']:.0e}"
    )


def _summary(rows: list[dict[str, Any]], limit: float | None) -> str:
    """The text of one case (batch, threads)."""
    found = {row["runtime"]: row["milliseconds"]["median"] for row in rows}
    reference = found.get(REFERENCE, max(found.values()))
    lines = [f"batch {rows[0]['batch']}, {rows[0]['threads']} threads (times: median, deciles)"]
    lines += [_line(row, reference) for row in sorted(rows, key=lambda row: row["milliseconds"]["median"])]
    if limit:
        lines.append(
            f"  {'arithmetic limit':<23} {limit:8.1f} ms  kept multiply-adds at the rate of a dense layer"
        )
    for label in (OURS, OURS_BF16):
        for kind in ("fp32", "bf16"):
            times = speedup(rows, kind, label)
            if times:
                lines.append(f"  {label}: {times:.2f} times the fastest dense {kind} runtime")
    return "\n".join(lines)


def _cases(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows by (batch, threads), with what the pictures need."""
    cases = []
    for key in dict.fromkeys((row["batch"], row["threads"]) for row in rows):
        own = [row for row in rows if (row["batch"], row["threads"]) == key]
        ours = next((row for row in own if row["runtime"] == OURS), None)
        limit = 1000 * ours["operations"]["kept"] / ours["peak"] if ours else None
        cases.append({"title": f"batch {key[0]}, {key[1]} threads", "rows": own, "limit": limit})
    return cases


def main(
    words: list[str] | None = None,
    loader: str | None = None,
    about: tuple[str, str] = ("prune_utils.deploy.benchmark", str(__doc__)),
) -> None:
    """loader: what reads a FILE where the command line does not say it. about: the module that was called and
    what its help says."""
    asked = arguments(words, loader, about)
    dest, labels = Path(asked.dest), _chosen(asked.only)
    need("matplotlib")  # draws what takes minutes to measure
    first, stem = asked.files[0], Path(asked.files[0]).stem
    ratios = {path: sparsity(load_by(asked.network, path)) for path in asked.files}
    sizes = file_sizes(load_by(asked.network, first))
    result: dict[str, Any] = {"file": first, "sparsity": ratios[first], "bytes": sizes}
    dest.mkdir(parents=True, exist_ok=True)
    print(
        f"{first}: {ratios[first]:.2f} % sparse; "
        + "; ".join(
            f"{name} {size / 1e6:.1f} MB (1/{sizes['dense'] / size:.1f})" for name, size in sizes.items()
        )
    )
    wanted = [(batch, threads, asked.size) for threads in asked.threads for batch in asked.batch]
    work = [(first, label, wanted) for label in labels]
    if len(asked.files) > 1:
        work += [(path, OURS, wanted[:1]) for path in asked.files[1:]]
    found = _measured(work, asked.network)
    rows = [row for path, label, _ in work[: len(labels)] for row in found[path, label]]
    cases = _cases(rows)
    for case in cases:
        print(_summary(case["rows"], case["limit"]))
    result["rows"] = rows
    if len(asked.files) > 1:
        others = {path: found[path, OURS][0] for path in asked.files[1:]}
        if OURS in labels:
            others[first] = next(row for row in rows if row["runtime"] == OURS)
        result["curve"] = sorted(
            (ratios[path], row["milliseconds"]["median"]) for path, row in others.items()
        )
    written = dest / f"{stem}_speed.json"
    with replacing(written) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    print(written)
    title = f"{stem}, {ratios[first]:.1f} % sparse, {asked.size} x {asked.size}"
    print(latency_bars(cases, title, dest / f"{stem}_speed.png"))
    if "curve" in result:
        dense = [row for row in cases[0]["rows"] if row["kind"] != "ours"]
        print(speed_curve(result["curve"], dense, cases[0]["title"], dest / f"{stem}_curve.png"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
