"""Five networks on the same unseen rooms: dense, and at 95 % random, SNIP, DiSparse static and dynamic.

Draws synthetic rooms, runs the same commands that a user types, and ends with scores, sizes, speeds, one
picture and a sentence that says what came out, whatever it is. Needs no data and no GPU, `make demo` calls
it. Leaves out nothing but size: networks are narrow, images small, so one run says little about methods.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.command_line import Parser, described  # noqa: E402
from common.constant import beats  # noqa: E402
from common.text import duration, file_size, table  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    Pictures = dict[str, dict[str, np.ndarray]]  # task -> network or "target" -> uint8 RGB [H, W, 3]

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
WORDS = {"mIoU": "mIoU", "mean": "off by"}  # what a measure is called below a picture
TEXT = 16  # points of the picture, 12 inches wide: still read where it is shown as small as a hand
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
    values = [f"{some['constant'][task]['metric'][name]:.2f}" for task, name in MEASURES]
    rows.append(("best constant answer", "", "", *values))
    return table(rows, header)


def verdict(results: dict[str, dict[str, Any]]) -> str:
    """How the sparse networks came out on each task's first measure, and which learned nothing of a task."""
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
        for title, value in values.items():
            if not beats(value, results[title]["constant"][task]["metric"][name], larger):
                sentences.append(f"{title} gave up {task}: no better than one answer for every pixel.")
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


def predictions(data: str, dest: Path, networks: dict[str, Path]) -> tuple[np.ndarray, Pictures, list[int]]:
    """One unseen room: its image, for every task the target and every network's answer, and the classes."""
    import torch
    from torch.nn import functional

    from configs.load import load
    from tasks.base import Target
    from training.panels import input_picture
    from workflow.experiment import open_experiment
    from workflow.saved import load_network

    config = load("nyuv2", [OVERLAY], {"data": {"root": data}})
    experiment = open_experiment(config, "baseline", str(dest), None)
    images, targets = next(iter(experiment.evaluation_stream("test")))
    found: Pictures = {}
    seen: set[int] = set()
    with torch.no_grad():
        said = {title: load_network(str(file))(images[:1]) for title, file in networks.items()}
    for name, task in experiment.tasks.items():
        known = Target(targets[name].value[0], targets[name].valid[0])
        found[name] = {"target": task.picture(known.value, known.valid, like=known)}
        values = [known.value[known.valid]] if name == "seg" else []
        for title, preds in said.items():
            size = known.value.shape[-2:]
            smooth = functional.interpolate(preds[name], size=size, mode="bilinear", align_corners=False)
            value = task.decode(smooth)[0]
            found[name][title] = task.picture(value, None, like=known)
            values += [value] if name == "seg" else []
        seen |= {int(number) for value in values for number in value.unique()}
    return input_picture(images[0]), found, sorted(seen)


def draw(
    image: np.ndarray,
    found: Pictures,
    seen: list[int],
    results: dict[str, dict[str, Any]],
    path: Path,
) -> Path:
    """The room, and below their names every network's answers, with their scores on all unseen rooms."""
    from matplotlib.lines import Line2D

    from common.figures import COLOURS, INK, new_figure
    from dataloaders.class_names import class_names
    from tasks.pictures import CLASS_LEGEND, class_keys

    figure = new_figure(12.0, 4.9)
    titles = ["target", *results]
    axes = figure.subplots(2, 1 + len(titles), gridspec_kw={"wspace": 0.02})
    axes[0, 0].imshow(image)
    axes[0, 0].set_title("an unseen\nroom", color=INK, fontsize=TEXT)
    for row, (name, said) in enumerate(found.items()):
        for column, title in enumerate(titles, 1):
            axes[row, column].imshow(said[title])
            task, measure = MEASURES[0] if name == MEASURES[0][0] else MEASURES[2]
            if title in results:
                value = results[title]["metrics"][task]["metric"][measure]
                unit = "°" if name == "sn" else " %"
                text = f"{WORDS[measure]} {value:.1f}{unit}"
                axes[row, column].set_xlabel(text, color=INK, fontsize=TEXT, labelpad=4)
            if not row:
                shown = title.replace(" ", "\n") if title not in ("dense", "target") else title
                shown = "the truth" if title == "target" else shown
                axes[row, column].set_title(shown, color=INK, fontsize=TEXT)
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
        one.spines[:].set_visible(False)
    place: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes[1, 0].transAxes}
    axes[1, 0].text(0.5, 0.5, "which way\nsurfaces\nface", color=INK, fontsize=TEXT, **place)
    keys = class_keys(seen, class_names("nyuv2", 40))
    figure.legend(handles=keys, **CLASS_LEGEND | {"fontsize": TEXT, "title": None}, ncols=5)
    figure.canvas.draw()  # places are known now
    above = axes[0, -1].get_tightbbox().transformed(figure.transFigure.inverted())
    left, right, top = axes[0, 3].get_position().x0, above.x1, above.y1 + 0.02
    figure.add_artist(Line2D([left, right], [top, top], color=COLOURS[1], transform=figure.transFigure))
    words = f"{RATIO} % of the weights are zero"
    figure.text((left + right) / 2, top + 0.02, words, ha="center", fontsize=TEXT, color=COLOURS[1])
    figure.savefig(path, bbox_inches="tight", pad_inches=0.1)
    return path


def main() -> None:
    arguments = Parser(description=str(__doc__).splitlines()[0])
    arguments.add_argument("--dest", default="outputs/demo", help="folder for everything the demo makes")
    arguments.add_argument("--images", type=int, default=160, help="synthetic rooms to draw")
    steps = arguments.add_argument("--max-iters", type=int, help="training steps")
    described(steps, unset=f"those of {OVERLAY}")
    asked = arguments.parse_args()
    began, dest = time.monotonic(), Path(asked.dest)
    dest = dest if Path.cwd() == ROOT else dest.absolute()  # commands run in ROOT
    data = str(dest / "rooms")
    size = ["--layout", "nyuv2", "--images", str(asked.images), "--size", "120x160"]
    call(["-m", "dataloaders.synthetic", data, *size, "--overwrite"])
    methods = "random,snip,disparse_static,disparse_dynamic"
    study = ["--methods", methods, "--ratios", RATIO, "--seeds", "1", "--config", OVERLAY]
    study += ["--num-workers", "0"]  # in evaluation too: a loader process takes longer to start than its work
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
    picture = draw(*predictions(data, dest, networks), results, dest / "comparison.png")
    print("\n" + verdict(results))
    print(f"\nPicture: {picture} ({file_size(picture.stat().st_size)})")
    print(f"Everything else: {dest}. The demo took {duration(time.monotonic() - began)}.")


if __name__ == "__main__":
    main()
