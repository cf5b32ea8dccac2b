"""The data sets by name. Importing this package imports no torch and no cv2: scripts answer `--help` at once.

A new data set is one file with `make_tasks` and `make_layout` (see nyuv2.py), one row here, and one YAML file
of its name in configs/, which holds its settings: classes, crop, size to which all files are resized.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from common.choices import not_one_of
from common.commands import module
from common.names import PROTOCOLS

if TYPE_CHECKING:
    from configs.schema import Data
    from dataloaders.base import Records
    from tasks.base import Task


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is called, what it offers, and which module reads it.

    index_file: name of the JSON file in the root: split -> list of records (lists of relative paths).
    task_names: every task it has targets for, in the order in which tasks are numbered.
    module: has make_tasks(task names, data, protocol) -> dict of Task, make_layout(data, protocol) -> Layout.
    how_to_get: a sentence or two for people who have no such folder yet.
    trained_prefix: before every name in published files of trained networks, as their evaluation wants it.
    """

    name: str
    index_file: str
    task_names: tuple[str, ...]
    module: str
    how_to_get: str
    trained_prefix: str = ""

    def make_tasks(self, names: Iterable[str], data: Data, protocol: str) -> dict[str, Task]:
        """Task name -> Task for the chosen names, in this data set's order. ValueError names the choices."""
        names = list(names)
        _check_choice("protocol", protocol, PROTOCOLS)
        for name in names:
            _check_choice("task", name, self.task_names)
        if not names:
            raise ValueError(f"no task is chosen; {self.name} has {', '.join(self.task_names)}")
        ordered = tuple(name for name in self.task_names if name in names)
        try:
            return import_module(self.module).make_tasks(ordered, data, protocol)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}: {self.how_to_get}") from error

    def open(self, data: Data, split: str, tasks: dict[str, Task], protocol: str) -> Records:
        """Records of one split ("train", "val", "test" or another of the index) with the files of `tasks`.

        tasks: what make_tasks returned. They are read by way of the cache in data.cache, if there is one.
        Raises FileNotFoundError (folder or index missing, says how to get them) and ValueError.
        """
        from dataloaders.base import open_records  # torch and cv2: not before data are read
        from dataloaders.index import entries, read_index
        from dataloaders.plane_cache import cached

        _check_choice("protocol", protocol, PROTOCOLS)
        layout = import_module(self.module).make_layout(data, protocol)
        index = read_index(data.root, self.index_file, self.how_to_get)
        chosen = entries(
            index,
            split,
            layout.files,
            data.val_fraction,
            Path(data.root),
            layout.image.column,
            data.allow_overlap,
        )
        records = open_records(layout, data, split, chosen, tasks, protocol)
        return cached(records, data.cache) if data.cache else records

    def overlaps(self, data: Data) -> bool:
        """Whether an image is both learnt from and scored on. Raises as `open`."""
        from dataloaders.index import read_index, shared_images

        layout = import_module(self.module).make_layout(data, PROTOCOLS[0])
        index = read_index(data.root, self.index_file, self.how_to_get)
        shared = shared_images(index, layout.image.column, Path(data.root))
        return any(one.startswith("train") for one, _, _ in shared)

    def open_all(self, data: Data, tasks: dict[str, Task], protocol: str) -> dict[str, Records]:
        """Records of every split that the index holds, as it holds them (none is taken from train)."""
        from dataloaders.index import read_index

        index = read_index(data.root, self.index_file, self.how_to_get)
        whole = replace(data, val_fraction=0)
        return {split: self.open(whole, split, tasks, protocol) for split in index}


def _check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(not_one_of(what, value, sorted(choices)))


def _stand_in(layout: str) -> str:
    return f"a stand-in is made by `{module('dataloaders.synthetic')} DEST --layout {layout} --images 24`"


PREPARE = module("dataloaders.prepare")
_ROWS = (
    DataSet(
        "nyuv2",
        "nyu_v2_3task.json",
        ("seg", "sn", "depth"),
        "dataloaders.nyuv2",
        "Get NYUv2 in the AdaShare layout (github.com/sunxm2357/AdaShare links it), or convert the "
        f"official nyu_depth_v2_labeled.mat by `{PREPARE} nyuv2 SOURCE DEST`; " + _stand_in("nyuv2"),
    ),
    DataSet(
        "cityscapes",
        "cityscape.json",
        ("seg", "depth"),
        "dataloaders.cityscapes",
        "Get Cityscapes in the AdaShare layout (github.com/sunxm2357/AdaShare links it), or convert the "
        f"official folders by `{PREPARE} cityscapes SOURCE DEST`; " + _stand_in("cityscapes"),
    ),
    DataSet(
        "taskonomy",
        "taskonomy.json",
        ("seg", "sn", "depth", "keypoint", "edge"),
        "dataloaders.taskonomy",
        "Get Tiny-Taskonomy (github.com/StanfordVL/taskonomy) and index it by "
        f"`{PREPARE} taskonomy SOURCE DEST`; " + _stand_in("taskonomy"),
        trained_prefix="module.",
    ),
)
DATASETS: dict[str, DataSet] = {row.name: row for row in _ROWS}
