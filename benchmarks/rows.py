"""One short run of every row of the table of methods on real photographs: exact, how long, how much memory.

Each command runs in a process of its own that has the libraries loaded already; what is added up for a row is
its `create` and its `launch`, without the dense network that some rows start from. Figures go to
DEST/rows.jsonl, a line as soon as a row is done; the same command goes on where it stopped.

With --weightings the dense network is trained by each weighting of the tasks instead (min_max costs what stch
does).

usage: python3 -m benchmarks.rows --data-root FOLDER --dest DIR [--steps 40] [--only gmp,snip] [--weightings]
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.measure import MB, busy, describe_machine, peak_memory, show
from common.command_line import Parser
from common.names import BASELINE
from prune_utils.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
RATIO = 90
UNIT = "disparse_static"


def settings(asked: argparse.Namespace) -> list[str]:
    """What all commands are told: the setting of the study, in short."""
    short = {
        "optim.iterations": asked.steps,
        "finetune.iterations": asked.steps,
        "data.batch_size": 4,
        "prune.num_batches": 2,
        "prune.round_iterations": max(1, asked.steps // 10),
        "dynamic.every": max(1, asked.steps // 8),
        "gradual.every": 0.05,
        "run.eval_every": asked.steps,
        "run.preflight": "false",
        "run.device": "cpu",
    }
    words = ["--dataset", "nyuv2", "--config", "configs/nyuv2_small.yaml", "--data-root", asked.data_root]
    words += ["--ratio", str(RATIO), "--dest", asked.dest, "--overwrite"]
    return words + [word for name, value in short.items() for word in ("--set", f"{name}={value}")]


def measured(script: str, words: list[str], log: Path, answer: Connection) -> None:
    """In the new process: the script as __main__, its output in the log; sends wall, CPU seconds and peak."""
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [script, *words]
    wall, cpu = time.perf_counter(), time.process_time()
    with peak_memory() as peak:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    answer.send((time.perf_counter() - wall, time.process_time() - cpu, peak[0] / MB))


def run(script: str, words: list[str], log: Path) -> tuple[float, float, float]:
    """Raises RuntimeError with the last line that the script said where it fails."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["workflow.preflight", "torch.utils.tensorboard"])
    ours, theirs = context.Pipe()
    child = context.Process(target=measured, args=(script, words, log, theirs))
    child.start()
    theirs.close()
    child.join()
    if child.exitcode or not ours.poll():
        last = log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()[-1:]
        raise RuntimeError(f"{script} {' '.join(words[:2])} ended with {child.exitcode}: {last}")
    return ours.recv()


def run_row(name: str, words: list[str], dest: Path) -> dict[str, Any]:
    """A row's figures: seconds and peak of its commands, and what is kept at the end.

    name: a method, or a weighting of the dense network.
    """
    scripts, method = ["launch_training.py"], name
    stem = f"nyuv2_{name}_{RATIO}"
    if name not in METHODS:
        method, stem = BASELINE, f"nyuv2_{BASELINE}" if name == BASELINE else f"dense_{name}"
        words = [*words, "--name", stem, "--weighting", "fixed" if name == BASELINE else name]
    elif not METHODS[name].by_itself:
        scripts.insert(0, "create_pruned_net.py")
    log = dest / f"{name}.log"
    parts = [run(script, ["--method", method, *words], log) for script in scripts]
    import torch

    content = torch.load(dest / f"final_{stem}.pth", weights_only=True)
    kept = 0 if content["mask"] is None else sum(int(part.sum()) for part in content["mask"].values())
    return {
        "row": name,
        "wall": sum(part[0] for part in parts),
        "cpu": sum(part[1] for part in parts),
        "peak": max(part[2] for part in parts),
        "kept": kept,
        "asked": content["certificate"]["asked_keep"] if content["certificate"] else 0,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data-root", required=True, help="NYUv2, 13 classes, as configs/nyuv2_small.yaml says"
    )
    parser.add_argument("--dest", required=True, help="where networks, logs and rows.jsonl go")
    parser.add_argument("--steps", type=int, default=40, help="of training, in every row")
    parser.add_argument("--weightings", action="store_true", help="of the dense network, not the rows")
    parser.add_argument("--only", default=",".join(METHODS), help="rows, separated by commas")
    asked = parser.parse_args()
    unknown = [name for name in asked.only.split(",") if name not in METHODS]
    if unknown:
        parser.error(f"row {unknown[0]!r} is not one of {', '.join(METHODS)}")
    if not Path(asked.data_root).is_dir():
        parser.error(f"there is no data folder {asked.data_root}")
    dest = Path(asked.dest)
    dest.mkdir(parents=True, exist_ok=True)
    lines = dest / "rows.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.is_file() else []
    names, unit = [BASELINE, UNIT, *asked.only.split(",")], UNIT
    if asked.weightings:
        from prune_utils.weightings import WEIGHTINGS
        from training.rules import SCALARIZERS

        cheap = [name for name, row in SCALARIZERS.items() if not row.needs_references]
        names, unit = [BASELINE, *WEIGHTINGS, *cheap], BASELINE
    for name in dict.fromkeys(names):
        if name not in {row["row"] for row in known}:
            known.append(run_row(name, settings(asked), dest))
            with lines.open("a") as file:
                file.write(json.dumps(known[-1]) + "\n")
    report([row for row in known if row["row"] in names], unit)


def left_over(weights: int) -> str:
    """Whether what was asked is kept; a row whose units are no single weights may leave some over."""
    return f"{weights:,} left over" if weights else "yes"


def report(rows: list[dict[str, Any]], relative_to: str) -> None:
    """The table, relative to one of its rows, and whether the machine was shared."""
    import torch

    describe_machine(torch.get_num_threads())
    unit = next(row for row in rows if row["row"] == relative_to)
    header = ("row", "wall s", "CPU s", "peak MB", "CPU /", "peak /", "exact")
    table = [
        (
            row["row"],
            row["wall"],
            row["cpu"],
            row["peak"],
            row["cpu"] / unit["cpu"],
            row["peak"] / unit["peak"],
            "-" if row["row"] not in METHODS else left_over(row["asked"] - row["kept"]),
        )
        for row in rows
    ]
    show(header, table)
    loads = [row["load"] for row in rows]
    load = f"load average {min(loads):.1f} to {max(loads):.1f} ({busy(max(loads))})"
    print(f"/ = relative to {relative_to}; {load}")


if __name__ == "__main__":
    main()
