"""A network's file as evaluation opens it: with the settings that it brings."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from configs.load import as_tree, load
from tests.hostile.faults import copied
from tests.hostile.formats import Format, own_network, write_torch
from workflow.evaluate import open_saved

FIELDS = ("data", "model", "prune", "run", "loss_weights")
GIVEN = {"run": {"device": "cpu"}}


def settings_of_a_network() -> dict:
    """The part that gets faults: some settings of every section, the name and the method."""
    flags = {"model": {"backbone": "resnet18", "width": 0.02}, "data": {"classes": 2}}
    config = as_tree(load("nyuv2", flags=flags))
    some = {name: dict(list(config[name].items())[:4]) for name in FIELDS}
    some["run"] = {name: config["run"][name] for name in ("seed", "protocol")}
    some["model"] = {name: config["model"][name] for name in ("backbone", "width")}
    some["data"] |= {"classes": 2}
    return {"name": "nyuv2_baseline", "method": "baseline", "config": some}


def write(path: Path, content: Any) -> None:
    whole = own_network() | {"mask": None, "certificate": None}
    if isinstance(content, dict):
        for name in ("config", "method", "name"):
            whole.pop(name)
        content = whole | content
    write_torch(path, content)


def read(path: Path) -> Any:
    asked = Namespace(
        dataset="nyuv2", method=None, name=None, weights=str(path), dest=str(path.parent), config=[]
    )
    experiment, saved = open_saved(asked, copied(GIVEN))
    config = as_tree(experiment.config)
    _ = experiment.tasks, experiment.objective
    return experiment.name, experiment.method, config, saved.network.state_dict(), saved.mask


def legal(path: tuple, fault: str) -> bool:
    """Other names; other numbers in a setting's range; a weight for a task that the network has not."""
    whole = not path and fault in ("an empty dictionary", "deep dictionaries")
    number = path[-1:] == ("keep_ratio",) and fault == "a fraction"
    number |= path[1:2] == ("loss_weights",) and fault == "a huge number"
    number |= path[-1:] == ("granularity",)  # any text is a name, looked up by what prunes
    return whole or number or (path[2:] == ("depth",) and fault == "missing")


FORMATS = (
    Format("evaluated network", "net.pth", settings_of_a_network, write, read, True, 100, legal, slow=True),
)
