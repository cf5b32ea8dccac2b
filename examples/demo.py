"""The whole way on synthetic rooms: data, dense training, DiSparse at 90 %, sparse training, evaluation.

Runs the same commands that a user types and shows each of them. Needs no data and no GPU; `make demo` calls
it. Leaves out nothing but size: the network is narrow and the images are small.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.text import table  # noqa: E402

OVERLAY = "configs/demo.yaml"
SHOWN = (("seg", "mIoU"), ("seg", "pixel_acc"), ("sn", "mean"), ("sn", "11.25"), ("sn", "30"))


def call(words: list[str]) -> None:
    """Show a command and run it; a failure ends the demo with its status."""
    print(f"\n$ python3 {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def scores(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def closing_table(results: dict[str, dict[str, Any]]) -> str:
    rows = []
    for title, result in results.items():
        proof = result["certificate"]
        kept = f"{proof['kept']:,}" if proof else "all"
        metrics = result["metrics"]
        values = [f"{metrics[task]['metric'][name]:.2f}" for task, name in SHOWN]
        rows.append((title, kept, *values, f"{result['loss']['total']:.3f}"))
    units = {name: result["directions"][task][name] for task, name in SHOWN for result in results.values()}
    arrows = {name: "↑" if row["larger_is_better"] else "↓" for name, row in units.items()}
    header = ["network", "weights kept", *(f"{task} {name} {arrows[name]}" for task, name in SHOWN), "loss ↓"]
    return table(rows, header)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dest", default="outputs/demo", help="folder for everything the demo makes")
    arguments.add_argument("--images", type=int, default=160, help="synthetic rooms to draw")
    asked = arguments.parse_args()
    began, dest = time.monotonic(), Path(asked.dest)
    data, pictures = str(dest / "rooms"), "4"
    common = ["--dataset", "nyuv2", "--config", OVERLAY, "--data-root", data, "--dest", str(dest)]
    static = ["--method", "disparse_static", "--ratio", "90"]
    again = ["--overwrite"]

    size = ["--layout", "nyuv2", "--images", str(asked.images), "--size", "120x160"]
    call(["-m", "dataloaders.synthetic", data, *size, *again])
    call(["launch_training.py", *common, "--method", "baseline", *again])
    call(["create_pruned_net.py", *common, *static, *again])
    call(["launch_training.py", *common, *static, *again])
    untrained = ["--weights", str(dest / "nyuv2_disparse_static_90.pth"), "--name", "untrained"]
    evaluate = ["eval_pruned_net.py", "--data-root", data, "--dest", str(dest), *again]
    call([*evaluate, *static, *untrained])
    call([*evaluate, "--method", "baseline", "--pictures", pictures])
    call([*evaluate, *static, "--pictures", pictures])

    files = {"untrained": "untrained", "dense": "nyuv2_baseline", "DiSparse 90 %": "nyuv2_disparse_static_90"}
    results = {title: scores(dest / f"{name}.json") for title, name in files.items()}
    print("\nScores on rooms that no training saw (metric protocol):\n")
    print(closing_table(results))
    print(f"\nPictures: {dest / 'nyuv2_disparse_static_90_test_pictures'}")
    print(f"Everything else: {dest}. The demo took {time.monotonic() - began:.0f} seconds.")


if __name__ == "__main__":
    main()
