"""`python3 -m dataloaders.check DATASET ROOT`: look at every file of a data set before training on it.

Names every missing, unreadable or ill-shaped file and label out of range; counts images and classes, and
shows the range of every task's values. `quick_check` is the short form for the start of a run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from dataloaders import DATASETS, DataSet
from dataloaders.base import BrokenSample, Records
from dataloaders.findings import Findings, Values, quick_check, walk
from dataloaders.index import read_index
from dataloaders.transforms import whole
from dataloaders.writing import default_workers, write_png

__all__ = ["main", "open_all", "panel", "quick_check", "report", "walk"]
CLASSES = {"nyuv2": 40, "cityscapes": 19, "taskonomy": 17}  # as published
SIZE = {"taskonomy": 256}


def open_all(row: DataSet, root: str, index: dict, given) -> tuple[dict, dict[str, Records]]:
    """Tasks and the records of every split of the index. given: tasks, classes, size, cache; None = default.

    ValueError or FileNotFoundError as DataSet.open says.
    """
    data = SimpleNamespace(
        root=root,
        classes=CLASSES[row.name] if given.classes is None else given.classes,
        size=SIZE.get(row.name) if given.size is None else given.size,
        val_fraction=0,
        cache=given.cache,
    )
    names = given.tasks.split(",") if given.tasks else row.task_names
    tasks = row.make_tasks(names, data, "metric")
    return tasks, {split: row.open(data, split, tasks, "metric") for split in index}


def panel(records: Records, tasks: dict, rows: int = 4) -> np.ndarray:
    """RGB picture: image and targets of some readable samples, one a row; empty where none can be read."""
    lines = []
    for place in np.unique(np.linspace(0, len(records) - 1, rows).astype(int)).tolist():
        try:
            sample = records[place]
            _, targets = records.crop(place, sample, whole(records.extent(sample)))
        except BrokenSample:
            continue
        image = np.asarray(records.layout.image.decode(sample.image))[..., ::-1]
        pictures = [tasks[name].picture(*targets[name]) for name in tasks]
        height, width = pictures[0].shape[:2]
        columns = np.arange(width) * image.shape[1] // width
        image = image[np.arange(height) * image.shape[0] // height][:, columns]
        lines.append(np.hstack([np.clip(image, 0, 255).astype(np.uint8), *pictures]))
    widest = max((line.shape[1] for line in lines), default=1)
    padded = [np.pad(line, ((0, 0), (0, widest - line.shape[1]), (0, 0))) for line in lines]
    return np.vstack(padded) if padded else np.zeros((1, 1, 3), np.uint8)


def report(title: str, splits: dict[str, Records], found: dict[str, Findings]) -> list[str]:
    """Lines of text: counts of each split, values of each task, shares of classes, then what is broken."""
    lines = [title, f"  {'split':<8}{'images':>8}{'broken files':>14}   sizes"]
    total = Findings()
    for split, findings in found.items():
        sizes = ", ".join(f"{h} x {w}" for (h, w), _ in findings.sizes.most_common(4))
        lines.append(f"  {split:<8}{len(splits[split]):>8}{len(findings.broken):>14}   {sizes}")
        total.merge(findings)
    lines.append(f"  {'task':<10}{'known':>8}{'lowest':>10}{'mean':>10}{'highest':>10}")
    for name, values in total.values.items():
        lines.append(f"  {name:<10}{values.known / values.pixels:>8.1%}" + _range(values))
    for name, values in total.values.items():
        if values.classes:
            lines += _shares(name, values)
    lines += _shared_records(splits)
    if total.broken:
        lines += [f"{len(total.broken)} broken files:", *(f"  {sentence}" for sentence in total.broken)]
    else:
        lines.append("no file is broken")
    return lines


def _range(values: Values) -> str:
    if not values.known:
        return "  no known pixel"
    mean = "" if values.classes else f"{values.total / values.known:.4g}"
    return f"{values.low:>10.4g}{mean:>10}{values.high:>10.4g}"


def _shares(name: str, values: Values) -> list[str]:
    """The classes' shares of the known pixels, eight a line."""
    items = [f"{number:>4} {count / values.known:>6.2%}" for number, count in sorted(values.classes.items())]
    rows = [" ".join(items[first : first + 8]) for first in range(0, len(items), 8)]
    return [f"  classes of {name}, share of the known pixels:", *(f"  {row}" for row in rows)]


def _shared_records(splits: dict[str, Records]) -> list[str]:
    """Notes about images that stand in more than one split: scores on them are no scores on new images."""
    column = {split: records.layout.image.column for split, records in splits.items()}
    images = {s: {entry.files[column[s]] for entry in records.entries} for s, records in splits.items()}
    notes = []
    for number, (first, mine) in enumerate(images.items()):
        for second, theirs in list(images.items())[number + 1 :]:
            if mine & theirs:
                notes.append(f"  note: {len(mine & theirs)} images stand in {first} and in {second}")
    return notes


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python3 -m dataloaders.check", description=__doc__.split("`: ")[1])
    p.add_argument("dataset", choices=DATASETS)
    p.add_argument("root", help="folder of the data set, with its index file")
    p.add_argument(
        "--tasks", help="comma-separated, only their files are opened (default: all of the data set)"
    )
    p.add_argument("--classes", type=int, help="segmentation classes (default: 40, 19 or 17)")
    p.add_argument("--size", type=int, help="side to which all files are resized (default: Taskonomy 256)")
    p.add_argument("--png", type=Path, metavar="OUT", help="write a panel of images and targets")
    p.add_argument("--workers", type=int, default=default_workers(), help="processes (default: one a core)")
    p.set_defaults(cache=None)
    return p


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0 = all well, 1 = broken files, 2 = one sentence and no check."""
    a = parser().parse_args(arguments)
    row = DATASETS[a.dataset]
    try:
        index = read_index(a.root, row.index_file, row.how_to_get)
        tasks, splits = open_all(row, a.root, index, a)
        found = {split: walk(records, a.workers) for split, records in splits.items()}
        if a.png and splits:
            write_png(a.png, panel(next(iter(splits.values())), tasks))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(report(f"{a.dataset} in {a.root}", splits, found)))
    return 1 if any(findings.broken for findings in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
