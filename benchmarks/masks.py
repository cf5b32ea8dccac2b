"""Making a mask at initialisation: scoring, ranking, choosing, for two and five tasks.

Ours (prune_utils) beside the plain way (benchmarks/plain.py), full-size network, 2 batches of 2 images of
128 x 128, 90 % sparse. Both start from the same network in a fresh process and end with the mask in it.
"ours, bf16" lets the scoring passes multiply in bfloat16, which the program does not do: IoU, kept by both /
kept by either, says how far its mask is from the one in 32 bit.

usage: python3 -m benchmarks.masks [--rounds 3] [--case nyuv2] [--threads N]
"""

from __future__ import annotations

import argparse
import os

from . import measure

CROP, BATCH, COUNT, RATIO = 128, 2, 2, 90.0
KEEP = {"nyuv2": 0.08, "taskonomy": 0.097}  # the plain way's hand-tuned keep ratio per task


def ours(case_name: str, bf16: bool, threads: int) -> dict[str, float]:
    """One mask by prune_utils."""
    import torch

    from prune_utils.masks import apply

    from .cases import make_case

    torch.set_num_threads(threads)
    case, clock = make_case(case_name, CROP, BATCH, COUNT), measure.Clock()
    with measure.peak_memory() as peak, clock("all"):
        apply(case.network, masked(case, bf16))
    return {"wall s": clock.wall["all"], "CPU s": clock.cpu["all"], "peak MB": peak[0] / measure.MB}


def masked(case, bf16: bool) -> dict:
    """The mask that disparse_static gives a case."""
    import torch

    from prune_utils.methods import method
    from prune_utils.prune import make_mask, make_plan

    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        plan = make_plan(method("disparse_static"), settings())
        return make_mask(case.network, plan, case.electorate, list(enumerate(case.batches)))


def agreement(case_name: str, threads: int) -> float:
    """IoU of the masks by bfloat16 and by 32-bit passes."""
    import torch

    from .cases import make_case

    torch.set_num_threads(threads)
    case = make_case(case_name, CROP, BATCH, COUNT)
    one, two = masked(case, False), masked(case, True)
    both, either = (
        sum(int(of(one[name], two[name]).sum()) for name in one)
        for of in (torch.logical_and, torch.logical_or)
    )
    return both / either


def plain(case_name: str, threads: int) -> dict[str, float]:
    """One mask the plain way."""
    import torch

    from . import plain as rival
    from .cases import make_case

    torch.set_num_threads(threads)
    case, clock = make_case(case_name, CROP, BATCH, COUNT), measure.Clock()
    with measure.peak_memory() as peak, clock("all"):
        with clock("scoring"):
            twin = rival.masked_copy(case.network)
            scores = rival.score(twin, case.electorate.losses, case.batches)
        rival.put_in(case.network, rival.choose(scores, KEEP[case_name]))
    return {"wall s": clock.wall["all"], "CPU s": clock.cpu["all"], "peak MB": peak[0] / measure.MB}


def settings():
    """The program's own settings, for one mask."""
    from configs.schema import Prune

    return Prune(ratio=RATIO, num_batches=COUNT, batch_size=BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="masks made by each way (default 3)")
    parser.add_argument("--case", choices=sorted(KEEP), help="one network (default: both)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    asked = parser.parse_args()
    measure.describe_machine(asked.threads)
    rows = []
    for case in [asked.case] if asked.case else KEEP:
        ways = {
            "plain": lambda case=case: measure.fresh(plain, case, asked.threads),
            "ours": lambda case=case: measure.fresh(ours, case, False, asked.threads),
            "ours, bf16": lambda case=case: measure.fresh(ours, case, True, asked.threads),
        }
        iou = {"ours": "1", "ours, bf16": f"{measure.fresh(agreement, case, asked.threads):.3f}"}
        found = measure.take_turns(ways, asked.rounds)
        for name, figures in found.items():
            ratios = [figures[key] / found["plain"][key] for key in figures]
            rows.append([case, name, *figures.values(), *ratios, iou.get(name, "-")])
    measure.show(
        ["network", "way", "wall s", "CPU s", "peak MB", "/ plain", "/ plain", "/ plain", "IoU"], rows
    )
    print("the three ratios are of wall time, CPU time and peak memory")


if __name__ == "__main__":
    main()
