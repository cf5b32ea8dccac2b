"""Making a mask at initialisation: scoring, ranking, choosing, for two and five tasks.

Ours (prune_utils) beside the plain way (benchmarks/plain.py), full-size network, 2 batches of 2 images of
128 x 128, 90 % sparse. Both start from the same network in a fresh process and end with the mask in it.
"ours, bf16" lets the scoring passes multiply in bfloat16, which the program does not do. How far its mask is
from the one in 32 bit is said below the table, beside what other changes do to the mask.

usage: python3 -m benchmarks.masks [--rounds 3] [--case nyuv2] [--crop 128] [--threads N]
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.command_line import Parser

from . import measure

if TYPE_CHECKING:  # torch is imported by the processes that measure
    from configs.schema import Prune
    from prune_utils.masks import Mask

    from .cases import Case

BATCH, COUNT, RATIO = 2, 2, 90.0
KEEP = {"nyuv2": 0.08, "taskonomy": 0.097}  # the plain way's hand-tuned keep ratio per task


@dataclass(frozen=True)
class Size:
    """A key of KEEP, the side of the images, and torch's threads."""

    case: str
    crop: int
    threads: int


def start(size: Size) -> Case:
    """The case, on as many threads as asked."""
    import torch

    from .cases import make_case

    torch.set_num_threads(size.threads)
    return make_case(size.case, size.crop, BATCH, COUNT)


def ours(size: Size, bf16: bool) -> dict[str, float]:
    """One mask by prune_utils."""
    import prune_utils.prune  # noqa: F401  imported before the clock starts, as the plain way is
    from prune_utils.masks import apply

    case, clock = start(size), measure.Clock()
    with measure.peak_memory() as peak, clock("all"):
        apply(case.network, masked(case, bf16))
    return {"wall s": clock.wall["all"], "CPU s": clock.cpu["all"], "peak MB": peak[0] / measure.MB}


def masked(case: Case, bf16: bool = False) -> Mask:
    """The mask that disparse_static gives a case."""
    import torch

    from prune_utils.methods import method
    from prune_utils.plan import make_plan
    from prune_utils.prune import make_mask

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        plan = make_plan(method("disparse_static"), settings())
        return make_mask(case.network, plan, case.electorate, list(enumerate(case.batches)))


def plain(size: Size) -> dict[str, float]:
    """One mask the plain way."""
    from . import plain as rival

    case, clock = start(size), measure.Clock()
    with measure.peak_memory() as peak, clock("all"):
        twin = rival.masked_copy(case.network)
        scores = rival.score(twin, case.electorate.losses, case.batches)
        rival.put_in(case.network, rival.choose(scores, KEEP[size.case]))
    return {"wall s": clock.wall["all"], "CPU s": clock.cpu["all"], "peak MB": peak[0] / measure.MB}


def agreement(size: Size) -> dict[str, float]:
    """IoU (kept by both / kept by either) of the mask with those that one change gives."""
    import torch

    case = start(size)
    before, found = masked(case), {}
    case.network.layout = torch.preserve_format  # dropout draws in memory order
    found["other draws of dropout"] = iou(before, masked(case))
    for module in case.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    before = masked(case)
    found["bf16, no dropout"] = iou(before, masked(case, bf16=True))
    case.network.layout = torch.channels_last
    found["other memory order, no dropout"] = iou(before, masked(case))
    return found


def iou(one: Mask, two: Mask) -> float:
    """Weights kept by both over weights kept by either."""
    both = sum(int((one[name] & two[name]).sum()) for name in one)
    return both / sum(int((one[name] | two[name]).sum()) for name in one)


def settings() -> Prune:
    """The program's own settings, for one mask."""
    from configs.schema import Prune

    return Prune(ratio=RATIO, num_batches=COUNT, batch_size=BATCH)


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="masks made by each way")
    parser.add_argument("--case", choices=sorted(KEEP), help="one network (default: both)")
    parser.add_argument("--crop", type=int, default=128, help="side of the images")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    measure.describe_machine(asked.threads)
    print(f"{COUNT} batches of {BATCH} images of {asked.crop} x {asked.crop}\n")
    rows, notes = [], []
    for case in [asked.case] if asked.case else KEEP:
        size = Size(case, asked.crop, asked.threads)
        ways = {
            "plain": lambda size=size: measure.fresh(plain, size),
            "ours": lambda size=size: measure.fresh(ours, size, False),
            "ours, bf16": lambda size=size: measure.fresh(ours, size, True),
        }
        found = measure.take_turns(ways, asked.rounds)
        for name, figures in found.items():
            ratios = [figures[key] / found["plain"][key] for key in figures]
            rows.append([case, name, *figures.values(), *ratios])
        masks = measure.fresh(agreement, size)
        notes.append(f"{case}: IoU with " + ", ".join(f"{what} {value:.3f}" for what, value in masks.items()))
    measure.show(["network", "way", "wall s", "CPU s", "peak MB", *3 * ["/ plain"]], rows)
    print("the three ratios are of wall time, CPU time and peak memory\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
