"""Images a second in training on a CPU: memory order, bf16, torch.compile, threads, optimiser, dropout.

Full-size network of two tasks, the program's defaults and one change at a time. "loss differs" is how far,
without dropout, the loss after two steps is from the default's; "repeats" says whether a second run, in this
process and in every round's, gives the same bits.

usage: python3 -m benchmarks.throughput [--rounds 3] [--steps 4] [--crop 321] [--batch 2] [--ways NAMES]
"""

from __future__ import annotations

import os
import statistics
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.command_line import Parser

from . import measure

if TYPE_CHECKING:  # torch is imported by the processes that measure
    from .cases import Case

CASE = "nyuv2"


@dataclass(frozen=True)
class Way:
    """What may differ from the program's defaults."""

    channels_last: bool = True
    bf16: bool = False
    compile: bool = False
    threads: int | None = None
    fused: bool = True
    all_taps: bool = False  # heads compute with the taps that read only padding, too
    torch_dropout: bool = False  # heads draw as PyTorch does


WAYS = {
    "default": Way(),
    "channels-first": Way(channels_last=False),
    "bf16": Way(bf16=True),
    "compiled": Way(compile=True),
    "adam-in-parts": Way(fused=False),
    "one-thread": Way(threads=1),
    "all-taps": Way(all_taps=True),
    "torch-dropout": Way(torch_dropout=True),
}


@dataclass(frozen=True)
class Size:
    """What is trained on."""

    crop: int
    batch: int
    steps: int


def run(name: str, size: Size) -> dict:
    """Median step of a way after two for warming up, the third loss, and whether steps repeat."""
    import torch

    from models.aspp import Atrous, Dropout

    from .cases import make_case

    way = WAYS[name]
    torch.set_num_threads(way.threads or os.cpu_count() or 1)
    case = make_case(CASE, size.crop, size.batch, 2)
    case.network.layout = torch.channels_last if way.channels_last else torch.preserve_format
    rivals: dict[type, Any] = {Atrous: torch.nn.Conv2d} if way.all_taps else {}
    rivals |= {Dropout: torch.nn.Dropout} if way.torch_dropout else {}
    for module in case.network.modules():
        if type(module) in rivals:  # computes as PyTorch does
            plain = types.MethodType(rivals[type(module)].forward, module)
            module.forward = plain
    state = {key: value.clone() for key, value in case.network.state_dict().items()}
    with measure.peak_memory() as peak:
        wall, cpu, losses = train(case, way, size.steps + 2)
    case.network.load_state_dict(state)
    again = train(case, way, 2)[2]
    case.network.load_state_dict(state)
    for module in case.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    step = statistics.median(wall[2:])
    return {
        "images/s": size.batch / step,
        "step s": step,
        "CPU s": statistics.median(cpu[2:]),
        "first step s": wall[0],
        "peak MB": peak[0] / measure.MB,
        "loss": train(case, way, 3)[2][-1],
        "losses": losses[:2],
        "repeats": again == losses[:2],
    }


def train(case: Case, way: Way, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Wall and CPU seconds and loss of each step."""
    import torch

    network = case.network.train()
    subject = torch.compile(network) if way.compile else network
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=5e-4, fused=way.fused)
    wall, cpu, losses = [], [], []
    for step in range(steps):
        torch.manual_seed(step)
        clock, (image, targets) = measure.Clock(), case.batches[step % 2]
        with clock("step"):
            with torch.autocast("cpu", torch.bfloat16, enabled=way.bf16):
                loss = case.total(subject(image), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wall.append(clock.wall["step"])
        cpu.append(clock.cpu["step"])
        losses.append(loss.item())
    return wall, cpu, losses


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="processes of each way")
    parser.add_argument("--steps", type=int, default=4, help="steps measured in each")
    parser.add_argument("--crop", type=int, default=321, help="side of the images")
    parser.add_argument("--batch", type=int, default=2, help="images in a batch")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of: " + ", ".join(WAYS))
    asked = parser.parse_args()
    size = Size(asked.crop, asked.batch, asked.steps)
    for name in asked.ways.split(","):
        if name not in WAYS:
            parser.error(f"way {name!r} is not one of {', '.join(WAYS)}")
    measure.describe_machine(os.cpu_count())
    print(f"batches of {asked.batch} images of {asked.crop} x {asked.crop}\n")
    names = asked.ways.split(",")
    seen: dict[str, list[dict]] = {}
    for _ in range(asked.rounds):
        for name in names:
            seen.setdefault(name, []).append(measure.fresh(run, name, size))
    rows = []
    for name, runs in seen.items():
        figures = ("images/s", "step s", "CPU s", "first step s", "peak MB")
        medians = [statistics.median(run[key] for run in runs) for key in figures]
        base = seen[names[0]][0]["loss"]
        differs = abs(runs[0]["loss"] - base) / base
        repeats = all(run["repeats"] and run["losses"] == runs[0]["losses"] for run in runs)
        rows.append([name, *medians, f"{differs:.0e}" if differs else "no", "yes" if repeats else "NO"])
    measure.show(
        ["way", "images/s", "step s", "CPU s", "first step s", "peak MB", "loss differs", "repeats"], rows
    )


if __name__ == "__main__":
    main()
