"""Five networks on the same unseen rooms: dense, and at 95 % random, SNIP, DiSparse static and dynamic.

Draws synthetic rooms, runs the same commands that a user types, and ends with scores, sizes, speeds, one
picture and a sentence that says what came out, whatever it is. Needs no data and no GPU, `make demo` calls
it. Leaves out nothing but size: networks are narrow, images small, so one run says little about methods.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.text import duration, file_size, table  # noqa: E402

OVERLAY = "configs/demo.yaml"
RATIO = "95"
RUNS = {  # title -> stem of its files
    "dense": "nyuv2_baseline",
    "random": f"nyuv2_random_{RATIO}",
    "SNIP": f"nyuv2_snip_{RATIO}",
    "DiSparse static": f"nyuv2_disparse_static_{RATIO}",
    "DiSparse dynamic": f"nyuv2_disparse_dynamic_{RATIO}",
}
MEASURES = (("seg", "mIoU"), ("seg", "pixel_acc"), ("sn", "mean"), ("sn", "30"))
SIDE = 160  # pixels, of the image that speeds are measured on


def call(words: list[str]) -> None:
    """Show a command and run it; a failure ends the demo with its status."""
    print(f"\n$ python3 {shlex.join(words)}", flush=True)
    status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if status:
        sys.exit(status)


def scores_table(results: dict[str, dict[str, Any]], sizes: dict[str, int]) -> str:
    """A row for each network, the best constant answer's below them; the metric protocol."""
    some = next(iter(results.values()))
    arrows = {True: "↑", False: "↓"}
    header = ["network", "weights kept", "megabytes"]
    header += [f"{t} {m} {arrows[some['directions'][t][m]['larger_is_better']]}" for t, m in MEASURES]
    rows: list[tuple[str, ...]] = []
    for title, result in results.items():
        proof = result["certificate"]
        kept = f"{proof['kept']:,}" if proof else "all"
        values = [f"{result['metrics'][task]['metric'][name]:.2f}" for task, name in MEASURES]
        rows.append((title, kept, f"{sizes[title] / 1e6:.2f}", *values))
    if "constant" in some:
        values = [f"{some['constant'][task]['metric'][name]:.2f}" for task, name in MEASURES]
        rows.append(("best constant answer", "", "", *values))
    return table(rows, header)


def verdict(results: dict[str, dict[str, Any]]) -> str:
    """Which sparse network came out first on each task's first measure, and what it lost against dense."""
    sentences = []
    for task, name in (MEASURES[0], MEASURES[2]):
        values = {title: result["metrics"][task]["metric"][name] for title, result in results.items()}
        larger = results["dense"]["directions"][task][name]["larger_is_better"]
        sparse = [title for title in values if title != "dense"]
        order = sorted(sparse, key=values.__getitem__, reverse=larger)
        listed = ", ".join(f"{title} {values[title]:.2f}" for title in order)
        sentences.append(
            f"{task} {name}: dense {values['dense']:.2f}; with {RATIO} % of the weights gone {listed}."
        )
    return "\n".join(
        [*sentences, "One seed of a small network on drawn rooms: an example, not a comparison of methods."]
    )


def speeds(networks: dict[str, Path]) -> str:
    """Milliseconds an image in the sparse engine and in onnxruntime; "-" and why where that cannot run."""
    from prune_utils.deploy.measuring import measure
    from prune_utils.deploy.runtimes import OURS

    threads = os.cpu_count() or 1
    rows = []
    for title, path in networks.items():
        cells = []
        for runtime in (OURS, "onnxruntime"):
            try:
                found = measure(path, runtime, [(1, threads, SIDE)], "workflow.saved:load_network")
                cells.append(f"{found[0]['milliseconds']['median']:.1f}")
            except ValueError as error:
                cells.append("-")
                print(error)
        rows.append((title, *cells))
    return table(rows, ("network", f"{OURS}, ms", "onnxruntime, ms"))


def comparison_picture(dest: Path, data: str, networks: dict[str, Path], path: Path) -> Path:
    """One unseen room: input, targets, and every network's predictions side by side; the classes' legend."""
    import torch
    from matplotlib.patches import Patch
    from torch.nn import functional

    from common.figures import INK, new_figure
    from configs.load import load
    from dataloaders.layouts import NYU40
    from tasks.base import Target
    from tasks.pictures import PALETTE
    from training.panels import input_picture
    from workflow.experiment import open_experiment
    from workflow.saved import load_network

    config = load("nyuv2", [OVERLAY], {"data": {"root": data, "num_workers": 0}})
    experiment = open_experiment(config, "baseline", str(dest), None)
    images, targets = next(iter(experiment.evaluation_stream("test")))
    image = images[:1]
    figure = new_figure(15.0, 4.3)
    axes = figure.subplots(2, len(networks) + 2)
    axes[0, 0].imshow(input_picture(image[0]))
    axes[0, 0].set_title("a room that no\ntraining saw", color=INK)
    seen: set[int] = set()

    columns: list[tuple[str, dict[str, torch.Tensor] | None]] = [("target", None)]
    for title, file in networks.items():
        with torch.no_grad():
            said = load_network(str(file))(image)
        columns.append((title if title == "dense" else f"{title}\n{RATIO} % zeros", said))
    for row, (name, task) in enumerate(experiment.tasks.items()):
        known = Target(targets[name].value[0], targets[name].valid[0])
        for column, (title, preds) in enumerate(columns, 1):
            if preds is None:
                value, valid = known.value, known.valid
            else:
                size = known.value.shape[-2:]
                smooth = functional.interpolate(preds[name], size=size, mode="bilinear", align_corners=False)
                value, valid = task.decode(smooth)[0], None
            if name == "seg":
                seen |= set(value[0].unique().tolist() if valid is None else value[valid].unique().tolist())
            axes[row, column].imshow(task.picture(value, valid, like=known))
            if not row:
                axes[row, column].set_title(title, color=INK)
    for axis in axes.flat:
        axis.set_axis_off()
    names = {number: kind for kind, number in reversed(NYU40.items())} | {NYU40["vase"]: "other"}
    patches = [Patch(color=PALETTE[k] / 255, label=names.get(k, f"class {k}")) for k in sorted(seen)]
    axes[1, 0].legend(handles=patches, loc="center", ncols=2, fontsize=7, frameon=False, title="classes")
    figure.savefig(path)
    return path


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dest", default="outputs/demo", help="folder for everything the demo makes")
    arguments.add_argument("--images", type=int, default=160, help="synthetic rooms to draw (160)")
    arguments.add_argument("--max-iters", type=int, help="training steps, instead of those of the settings")
    asked = arguments.parse_args()
    began, dest = time.monotonic(), Path(asked.dest)
    data = str(dest / "rooms")
    size = ["--layout", "nyuv2", "--images", str(asked.images), "--size", "120x160"]
    call(["-m", "dataloaders.synthetic", data, *size, "--overwrite"])
    methods = "random,snip,disparse_static,disparse_dynamic"
    study = ["--methods", methods, "--ratios", RATIO, "--seeds", "1", "--config", OVERLAY]
    study += [] if asked.max_iters is None else ["--max-iters", str(asked.max_iters)]
    call(["reproduce.py", "--dataset", "nyuv2", *study, "--data-root", data, "--dest", str(dest)])

    folder = dest / "seed0"
    networks = {title: folder / f"best_{stem}.pth" for title, stem in RUNS.items()}
    results = {title: json.loads((folder / f"{stem}.json").read_text()) for title, stem in RUNS.items()}
    sizes = {}
    for title, path in networks.items():
        small = path.with_suffix(".safetensors")
        call(["export_net.py", "--weights", str(path), "--format", "sparse", "--out", str(small)])
        sizes[title] = small.stat().st_size
    print(f"\nScores on {results['dense']['images']} rooms that no training saw (metric protocol):\n")
    print(scores_table(results, sizes))
    print(f"\nOne image of {SIDE} x {SIDE} pixels, {os.cpu_count()} threads, median:\n")
    print(speeds(networks))
    picture = comparison_picture(dest, data, networks, dest / "comparison.png")
    print("\n" + verdict(results))
    print(f"\nPicture: {picture} ({file_size(picture.stat().st_size)})")
    print(f"Everything else: {dest}. The demo took {duration(time.monotonic() - began)}.")


if __name__ == "__main__":
    main()
