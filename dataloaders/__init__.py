"""The data sets by name. Importing this package imports no torch and no cv2: scripts answer `--help` at once.

A new data set is one file with `make_tasks` and `open_split` (see nyuv2.py) and one row here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from common.names import PROTOCOLS


@dataclass(frozen=True)
class DataSet:
    """One data set: what it is called, what it offers, and which module reads it.

    index_file: name of the JSON file in the root: split -> list of records (lists of relative paths).
    task_names: every task it has targets for, in the order in which tasks are numbered.
    how_to_get: a sentence or two for people who have no such folder yet.
    """

    name: str
    index_file: str
    task_names: tuple[str, ...]
    module: str
    how_to_get: str

    def make_tasks(self, names: Iterable[str], data, protocol: str) -> dict:
        """Task name -> Task for the chosen names, in this data set's order. ValueError names the choices."""
        names = list(names)
        _check_choice("protocol", protocol, PROTOCOLS)
        for name in names:
            _check_choice("task", name, self.task_names)
        if not names:
            raise ValueError(f"no task is chosen; {self.name} has {', '.join(self.task_names)}")
        ordered = tuple(name for name in self.task_names if name in names)
        return import_module(self.module).make_tasks(ordered, data, protocol)

    def open(self, data, split: str, tasks: dict, protocol: str):
        """Records of one split ("train", "val", "test" or another of the index) with the files of `tasks`.

        `data` is the Data section of the settings, `tasks` what make_tasks returned.
        Raises FileNotFoundError (folder or index missing, says how to get them) and ValueError.
        """
        _check_choice("protocol", protocol, PROTOCOLS)
        return import_module(self.module).open_split(data, split, tasks, protocol)


def _check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is not one of {', '.join(sorted(choices))}")


def _stand_in(layout: str) -> str:
    return f"a stand-in is made by `python3 -m dataloaders.synthetic DEST --layout {layout} --images 24`"


_ROWS = (
    DataSet(
        "nyuv2",
        "nyu_v2_3task.json",
        ("seg", "sn", "depth"),
        "dataloaders.nyuv2",
        "Get NYUv2 in the AdaShare layout (github.com/sunxm2357/AdaShare links it), or convert the "
        "official nyu_depth_v2_labeled.mat by `python3 -m dataloaders.prepare nyuv2 SOURCE DEST`; "
        + _stand_in("nyuv2"),
    ),
    DataSet(
        "cityscapes",
        "cityscape.json",
        ("seg", "depth"),
        "dataloaders.cityscapes",
        "Get Cityscapes in the AdaShare layout (github.com/sunxm2357/AdaShare links it), or convert the "
        "official folders by `python3 -m dataloaders.prepare cityscapes SOURCE DEST`; "
        + _stand_in("cityscapes"),
    ),
    DataSet(
        "taskonomy",
        "taskonomy.json",
        ("seg", "sn", "depth", "keypoint", "edge"),
        "dataloaders.taskonomy",
        "Get Tiny-Taskonomy (github.com/StanfordVL/taskonomy) and index it by "
        "`python3 -m dataloaders.prepare taskonomy SOURCE DEST`; " + _stand_in("taskonomy"),
    ),
)
DATASETS: dict[str, DataSet] = {row.name: row for row in _ROWS}
