"""Everything that a GPU changes, in one report of a few minutes: run it once on a fresh machine with one GPU.

Scoring and choosing (two and five tasks), a masked training step beside a dense one in three precisions,
channels last and compiled, the update of a moving mask, inference in float32, bfloat16 and float16 and with
channels removed, sparsity 2 of 4 in float16 beside dense matrices, and, where two devices are, a training
step shared by NCCL. Medians of the device's own clock (CUDA events), memory as its allocator counts it. What
the device cannot do is a row that says why.

usage: python3 -m benchmarks.gpu [--device cuda] [--only LIST] [--small] [--out outputs/gpu.json]

--small: tiny sizes, for a look at whether it runs (with --device cpu anywhere).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.choices import not_one_of
from common.command_line import Parser
from common.text import table
from prune_utils.attaching import Attachment
from prune_utils.choosing import choose
from prune_utils.masked import Masked
from prune_utils.methods import method
from prune_utils.plan import make_plan
from prune_utils.prune import make_budgets, make_mask
from prune_utils.regrow import Growth, Regrowth, Schedule
from prune_utils.scoring import score
from prune_utils.shrinking import remove_channels

from .cases import Case, make_case
from .masks import settings

RATIO = 90.0
REMOVED = (50.0, 70.0, 90.0)  # percent of the multiply-adds
MULTIPLE = 8  # of a smaller network's channels, as tensor cores like them
# outputs, inputs, pixels: a square product, and the widest 1x1 layer of a head on eight images of 321 x 321
MATRICES = ((4096, 4096, 4096), (512, 2048, 8 * 41 * 41))


@dataclass(frozen=True)
class Size:
    """crop, batch: of training images. side: of inference images. matrix: of the 2:4 products."""

    crop: int = 321
    batch: int = 16
    width: float = 1.0
    side: int = 321
    matrices: tuple[tuple[int, int, int], ...] = MATRICES
    repeats: int = 10


SMALL = Size(crop=33, batch=2, width=0.0625, side=33, matrices=((128, 64, 128),), repeats=2)


@dataclass(frozen=True)
class Row:
    """milliseconds: median; memory: MiB above what was held before; note: why there is no figure."""

    what: str
    milliseconds: float | None = None
    memory: float | None = None
    note: str = ""


class Meter:
    """Times what a device does."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.cuda = device.type == "cuda"

    def __call__(self, what: str, work: Callable[[], object], warm_up: int = 2) -> Row:
        """The median of several calls, after some that are not counted."""
        try:
            for _ in range(warm_up):
                work()
            self.settle()
            before = self.held(reset=True)
            times = [self.once(work) for _ in range(self.repeats)]
            return Row(what, statistics.median(times), (self.held() - before) / 2**20 if self.cuda else None)
        except (RuntimeError, NotImplementedError, ImportError, AssertionError) as error:
            return Row(what, note=" ".join(str(error).split())[:120] or type(error).__name__)

    def once(self, work: Callable[[], object]) -> float:
        if not self.cuda:
            begin = time.perf_counter()
            work()
            return 1000 * (time.perf_counter() - begin)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        self.settle()
        return start.elapsed_time(end)

    def settle(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def held(self, reset: bool = False) -> int:
        """The most bytes since the last reset."""
        if not self.cuda:
            return 0
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.max_memory_allocated(self.device)


def captured(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work as a CUDA graph, which does not wait for the host; elsewhere the work itself.

    Raises RuntimeError where the device cannot capture it.
    """
    if device.type != "cuda":
        return work
    aside = torch.cuda.Stream(device)
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream(device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def on_device(name: str, size: Size, device: torch.device, channels_last: bool = False) -> Case:
    """A case of the benchmarks, network and batches on the device."""
    case = make_case(name, size.crop, size.batch, 2, size.width)
    case.network.layout = torch.channels_last if channels_last else torch.preserve_format
    case.network.to(device)
    batches = [
        (
            image.to(device),
            {task: type(of)(*(part.to(device) for part in of)) for task, of in targets.items()},
        )
        for image, targets in case.batches
    ]
    return Case(case.network, case.tasks, case.weights, batches)


def scoring(meter: Meter, size: Size, device: torch.device) -> Iterable[Row]:
    """One batch's scores of all tasks, and the choice of a mask from them."""
    for name in ("nyuv2", "taskonomy"):
        case = on_device(name, size, device)
        voters, batches = case.electorate.voters("tasks"), [(0, case.batches[0])]
        what = f"{name}, {len(case.tasks)} tasks"
        look = partial(score, case.network, voters, batches, "snip")
        yield meter(f"scores of a batch: {what}", look)
        plan = make_plan(method("disparse_static"), settings())
        (budget,) = make_budgets(case.network, plan, case.electorate.owners)[-1:]
        yield meter(f"choosing from them: {what}", partial(choose, look(), budget, "unanimous"), 1)


def steps(meter: Meter, size: Size, device: torch.device) -> Iterable[Row]:
    """Training steps, dense and masked, in each precision, channels last, compiled; and a mask's update."""
    kinds = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    ways = [(label, "") for label in kinds] + [("bfloat16", ", channels last"), ("bfloat16", ", compiled")]
    for (label, way), masked in product(ways, (False, True)):
        case = on_device("nyuv2", size, device, way == ", channels last")
        optimizer = torch.optim.Adam(case.network.parameters())
        if masked:
            row = method("random")
            mask = make_mask(case.network, make_plan(row, settings()), case.electorate, [])
            Attachment(Masked(case.network, mask), [optimizer]).open()
        network = torch.compile(case.network) if way == ", compiled" else case.network
        what = f"step, {'masked' if masked else 'dense'}, {label}{way}"
        yield meter(what, _step(case, network, optimizer, device, kinds[label]))
    yield _update(meter, size, device)


def _step(
    case: Case, network: Any, optimizer: torch.optim.Optimizer, device: torch.device, kind: torch.dtype | None
) -> Callable[[], None]:
    scaler = torch.amp.GradScaler(device.type, enabled=kind == torch.float16)
    image, targets = case.batches[0]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=kind or torch.bfloat16, enabled=kind is not None):
            loss = case.total(network(image), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _update(meter: Meter, size: Size, device: torch.device) -> Row:
    case, row = on_device("nyuv2", size, device), method("disparse_dynamic")
    mask = make_mask(case.network, make_plan(method("set"), settings()), case.electorate, [])
    optimizer = torch.optim.Adam(case.network.parameters())
    growth = Growth(case.electorate.voters(row.grow_voters))
    moving = Regrowth(case.network, mask, optimizer, Schedule(until=10**9, every=1), growth)
    number = iter(range(1, 10**6))
    return meter("update of a moving mask", lambda: moving.after_step(next(number), case.batches[0]))


def inference(meter: Meter, size: Size, device: torch.device) -> Iterable[Row]:
    """The dense network on one image and on eight, in each type; and with channels removed, in float16. From
    the host, and captured as a graph: a network this small waits for the host."""
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for label, kind in kinds.items():
        yield from _inference(meter, size, on_device("nyuv2", size, device), kind, label)
    for layout, ratio in product((False, True), (0.0, *REMOVED)):
        case = on_device("nyuv2", size, device, layout)
        what = f"float16{', channels last' if layout else ''}"
        if ratio:
            what += f", {ratio:g} % of the multiply-adds removed"
            try:
                losses = case.electorate.losses
                remove_channels(case.network, losses, case.batches[:1], ratio, "macs", multiple=MULTIPLE)
            except ValueError as error:
                yield Row(f"inference, {what}", note=str(error))
                continue
        yield from _inference(meter, size, case, torch.float16, what)


def _inference(meter: Meter, size: Size, case: Case, kind: torch.dtype, label: str) -> Iterable[Row]:
    network = case.network.eval().to(kind)
    device = next(network.parameters()).device
    for count in (1, 8):
        image = torch.randn(count, 3, size.side, size.side, device=device, dtype=kind)
        with torch.inference_mode():
            yield from _both(meter, f"inference of {count}, {label}", partial(network, image), device)


def _both(meter: Meter, what: str, work: Callable[[], object], device: torch.device) -> Iterable[Row]:
    yield meter(what, work, 5)
    try:
        graph = captured(work, device)
    except RuntimeError as error:
        yield Row(f"{what}, as a graph", note=" ".join(str(error).split())[:120])
        return
    yield meter(f"{what}, as a graph", graph, 5)


def two_of_four(meter: Meter, size: Size, device: torch.device) -> Iterable[Row]:
    """float16 matrix products, dense and with two of every four weights kept (Ampere and later)."""
    from torch.sparse import to_sparse_semi_structured

    for outputs, inputs, pixels in size.matrices:
        weight = torch.randn(outputs, inputs, device=device, dtype=torch.float16)
        x = torch.randn(inputs, pixels, device=device, dtype=torch.float16)
        kept = torch.tensor([1, 1, 0, 0], device=device, dtype=torch.bool).tile(outputs, inputs // 4)
        what = f"matrix {outputs} x {inputs} by {pixels} columns"
        dense = weight * kept
        with torch.inference_mode():
            yield from _both(meter, f"{what}, dense float16", partial(torch.mm, dense, x), device)
        try:
            held = to_sparse_semi_structured(dense)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            yield Row(f"{what}, 2:4 float16", note=" ".join(str(error).split())[:120])
            continue
        with torch.no_grad():
            yield from _both(meter, f"{what}, 2:4 float16", partial(torch.mm, held, x), device)


def several(meter: Meter, size: Size, device: torch.device) -> Iterable[Row]:
    """A step shared by two devices."""
    found = torch.cuda.device_count() if device.type == "cuda" else 0
    if found < 2:
        yield Row("step on two devices, NCCL", note=f"{found} device here")
        return
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    torch.multiprocessing.spawn(_share, (size, answers), nprocs=2)
    yield Row("step on two devices, NCCL", answers.get())


def _share(rank: int, size: Size, answers: Any) -> None:
    import os

    from torch import distributed

    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    distributed.init_process_group("nccl", rank=rank, world_size=2)
    case = on_device("nyuv2", size, device)
    network = nn.parallel.DistributedDataParallel(case.network, [rank])
    work = _step(case, network, torch.optim.Adam(network.parameters()), device, None)
    row = Meter(device, size.repeats)("", work)
    if rank == 0:
        answers.put(row.milliseconds)
    distributed.destroy_process_group()


SECTIONS = {section.__name__: section for section in (scoring, steps, inference, two_of_four, several)}


def main() -> None:
    parser = Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="of torch")
    parser.add_argument("--small", action="store_true", help="tiny sizes: only whether it runs")
    names = ", ".join(SECTIONS)
    parser.add_argument("--only", metavar="LIST", default=names, help=f"some of: {names}")
    parser.add_argument("--out", metavar="FILE", help="also write the figures as JSON")
    asked = parser.parse_args()
    device, size = torch.device(asked.device), SMALL if asked.small else Size()
    sections = [name.strip() for name in asked.only.split(",")]
    for name in sections:
        if name not in SECTIONS:
            parser.error(not_one_of("--only", name, SECTIONS))
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: there is no GPU that torch can use: --device cpu --small tries the report")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, crop {size.crop}, batch {size.batch}, {RATIO:g} % sparse\n")
    meter, rows, begin = Meter(device, size.repeats), [], time.perf_counter()
    for section in sections:
        for row in SECTIONS[section](meter, size, device):
            rows.append(row)
            print(_line(row), flush=True)
    print(f"\n{time.perf_counter() - begin:.0f} s in all\n\n{report(rows)}")
    if asked.out:
        path = Path(asked.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"device": name, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


def _line(row: Row) -> str:
    return f"{row.what}: {row.note or f'{row.milliseconds:.2f} ms'}"


def report(rows: Iterable[Row]) -> str:
    """All figures as a table."""
    cells = [
        (
            row.what,
            "-" if row.milliseconds is None else f"{row.milliseconds:.2f}",
            "-" if row.memory is None else f"{row.memory:.0f}",
            row.note,
        )
        for row in rows
    ]
    return table(cells, ("what", "ms", "MiB", ""))


if __name__ == "__main__":
    main()
