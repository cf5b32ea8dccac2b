# PYTHON_ARGCOMPLETE_OK
"""`python3 -m dataloaders.check DATASET ROOT`: look at every file of a data set before training on it.

Names every missing, unreadable or ill-shaped file and label out of range; counts images and classes, and
shows the range of every task's values.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.choices import printable
from common.command_line import ending
from common.figures import INK, new_figure, write_figure
from common.files import check_file
from dataloaders import DATASETS
from dataloaders.base import BrokenSample, Records
from dataloaders.class_names import class_names
from dataloaders.commands import data_parser, data_settings
from dataloaders.findings import Findings, Values, walk
from dataloaders.transforms import whole
from tasks.base import Target, Task
from tasks.pictures import CLASS_LEGEND, class_keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panel(records: Records, tasks: dict[str, Task], names: list[str], rows: int = 4) -> Figure | None:
    """Image and targets of some readable samples, one a row, with titles and a legend of the classes that are
    seen; None where no sample can be read. names: of the segmentation classes."""
    samples = []
    for place in np.unique(np.linspace(0, len(records) - 1, rows).astype(int)).tolist():
        try:
            sample = records[place]
            _, targets = records.crop(place, sample, whole(records.extent(sample)))
        except BrokenSample:
            continue
        image = np.asarray(records.layout.image.decode(sample.image))[..., ::-1]
        samples.append((np.clip(image, 0, 255).astype(np.uint8), targets))
    if not samples:
        return None
    height, width = samples[0][0].shape[:2]
    cell = 2.4
    figure = new_figure(cell * (1 + len(tasks)), cell * height / width * len(samples) + 1.8)
    grid = figure.subplots(len(samples), 1 + len(tasks), squeeze=False)
    for axes, (image, targets) in zip(grid, samples, strict=True):
        axes[0].imshow(image)
        for column, (name, task) in enumerate(tasks.items(), 1):
            axes[column].imshow(task.picture(*targets[name]), interpolation="nearest")
    for axes, title in zip(grid[0], ["image", *tasks], strict=True):
        axes.set_title(title, color=INK, fontsize=13)
    for one in grid.flat:
        one.set_axis_off()
    seen = _classes([targets for _, targets in samples])
    if seen:
        figure.legend(handles=class_keys(seen, names), **CLASS_LEGEND, ncols=1 + len(tasks))
    return figure


def _classes(samples: list[dict[str, Target]]) -> list[int]:
    """The segmentation classes that some targets hold."""
    values = [targets["seg"].value[targets["seg"].valid] for targets in samples if "seg" in targets]
    return sorted({int(number) for value in values for number in value.unique()})


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


def check(a: argparse.Namespace) -> int:
    """0, or 1 if files are broken."""
    row, data = DATASETS[a.dataset], data_settings(a)
    tasks = row.make_tasks(data.tasks, data, "metric")
    splits = row.open_all(data, tasks, "metric")
    if a.png:
        check_file(a.png, "--png")
        if a.png.suffix != ".png":
            raise ValueError(f"--png {a.png} does not end in .png")
    found = {split: walk(records, a.workers) for split, records in splits.items()}
    print("\n".join(report(f"{a.dataset} in {printable(a.root)}", splits, found)))
    if a.png and splits:
        picture = panel(next(iter(splits.values())), tasks, class_names(a.dataset, data.classes))
        if picture is not None:
            print(f"wrote {write_figure(picture, a.png)}")
        else:
            print(f"no sample can be read: {a.png} is not written")
    return 1 if any(findings.broken for findings in found.values()) else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 0 = all well, 1 = broken files, 2 = one sentence and no check."""
    p = data_parser("check", __doc__.split("`: ")[1])
    p.add_argument("--png", type=Path, metavar="OUT", help="write a panel of images and targets")
    return ending(partial(check, p.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
