"""How far two masks agree: python3 -m agreement.overlap ONE.pth TWO.pth

Intersection over union of the kept weights, all together and by who owns them. Shows what a change of
precision, devices or seed does to a mask.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from common.text import table
from prune_utils.masks import mask_hash
from training.checkpoint import check_fields, is_own, read_file
from workflow import terminal


def overlap(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> dict[str, float]:
    """Intersection over union of two masks: "all" and by room of the network (backbone, heads.seg, ...).

    ValueError where the masks are of different networks. Nothing kept on either side is full agreement.
    """
    counts: dict[str, list[int]] = {}
    for name in one.keys() | two.keys():
        if name not in one or name not in two or one[name].shape != two[name].shape:
            raise ValueError(f"the masks are of different networks: they differ in layer {name}")
        room = ".".join(name.split(".")[: 1 if name.startswith("backbone") else 2])
        both, any_ = int((one[name] & two[name]).sum()), int((one[name] | two[name]).sum())
        for group in ("all", room):
            total = counts.setdefault(group, [0, 0])
            total[0] += both
            total[1] += any_
    return {group: both / any_ if any_ else 1.0 for group, (both, any_) in sorted(counts.items())}


def mask_of_file(path: str) -> dict[str, Tensor]:
    """The mask in one of our network files; ValueError where there is none."""
    content = read_file(Path(path))
    if not is_own(content) or check_fields(content, Path(path))["mask"] is None:
        raise ValueError(
            f"{path} holds no mask: it takes a file of create_pruned_net.py or launch_training.py"
        )
    return content["mask"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m agreement.overlap", description=__doc__.split("\n")[0])
    parser.add_argument("one", metavar="ONE.pth", help="a sparse network of this program")
    parser.add_argument("two", metavar="TWO.pth", help="another of the same architecture")
    asked = parser.parse_args()
    one, two = mask_of_file(asked.one), mask_of_file(asked.two)
    rows = [(group, f"{value:.6f}") for group, value in overlap(one, two).items()]
    print(table(rows, ("kept weights", "intersection over union")))
    print("the masks are equal" if mask_hash(one) == mask_hash(two) else "the masks differ")


if __name__ == "__main__":
    terminal.run(main)
