"""Contracts measured: how often a promise is kept, and how small the networks get beside other ways.

Promises: for each seed a dense network and one contract at --level, its limits taken in turn from --promise;
whether what validation promised holds on test.
Sizes: for the first seeds, and for each of the limits --sizes at --size-level,
    contract  create_pruned_net.py --max-drop LIMITS
    uniform   the same with contract.turns=0: one factor for all tasks, no dual ascent
    METHOD    networks of disparse_pt, imp and gmp at each of --ratios, from the same dense network, trained
              for --grid-steps steps: the smallest that keeps the limits, found and certified as a contract is

A piece is one training of a dense network, one search, or one network of the grid. It runs in processes of
its own, --jobs pieces side by side, and leaves a file DEST/PIECE.json; networks and logs lie in --work. A
piece whose file is there is skipped, one that was killed goes on from its last checkpoint. --table makes the
tables from DEST alone.

usage: python3 -m benchmarks.contract --data-root FOLDER --dest DIR [--jobs 2] [--work DIR] [--dry-run]
       python3 -m benchmarks.contract --dest DIR --table
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from benchmarks.contract_pieces import Piece, pieces, unfinished
from benchmarks.contract_tables import tables
from benchmarks.settings import settings_of
from common.command_line import Parser, described
from common.interrupt import StopRequest
from common.numbers import parse_numbers, parse_seeds
from common.parents import serve
from common.text import duration
from configs.load import as_tree, result_digest
from dataloaders import DATASETS
from prune_utils.bootstrap import check_level
from prune_utils.criteria import find_criterion
from study.isolated import LOADED, Stopped, last_line, run_script, threads_of
from workflow import terminal
from workflow.contract_check import check_val_share
from workflow.limits import parse_limits

PARTS = ("promise", "sizes")
CONFIG = "configs/nyuv2_small.yaml"


def run(piece: Piece, stop: StopRequest, threads: int | None) -> str | None:
    """A piece to its end; what went wrong, None = nothing."""
    piece.folder.mkdir(parents=True, exist_ok=True)
    for script, words, allowed in piece.commands():
        code = run_script(script, words, piece.log, stop, threads)
        said = last_line(piece.log)
        if code and piece.lost(said):
            break
        crashed = not said.startswith("error: ")  # whose status is 1, too
        if code not in allowed or (code and crashed):
            return f"{script} ended with status {code}: {said} ({piece.log})"
    piece.write(last_line(piece.log))
    return None


def run_all(todo: Sequence[Piece], jobs: int, stop: StopRequest) -> int:
    """Every piece, in order, as its dense network is there; how many failed. Raises Stopped when that is
    requested."""
    pending = list(todo)
    active: dict[Future[str | None], Piece] = {}
    began, failed, count = time.monotonic(), 0, len(pending)
    with ThreadPoolExecutor(jobs) as pool:
        while pending or active:
            if stop.number is not None and not active:
                raise Stopped(stop.number)
            free = [piece for piece in pending if piece.ready][: jobs - len(active)]
            for piece in free if stop.number is None else ():
                pending.remove(piece)
                active[pool.submit(run, piece, stop, threads_of(jobs))] = piece
            if not active:  # what they start from could not be made
                return failed + len(pending)
            for future in wait(active, 1, FIRST_COMPLETED).done:
                piece = active.pop(future)
                if isinstance(future.exception(), Stopped):
                    continue
                wrong = future.result()
                failed += wrong is not None
                left = f"{duration(time.monotonic() - began)}, {len(pending) + len(active)} of {count} left"
                print(f"{piece.name}: {wrong or 'done'}; {left}", flush=True)
    if stop.number is not None:
        raise Stopped(stop.number)
    return failed


def arguments() -> argparse.Namespace:
    """The command line, with the lists as lists and what follows from the settings."""
    words = Parser(description=__doc__.splitlines()[0])
    add = words.add_argument
    add("--dest", required=True, help="folder for the JSON files")
    described(add("--work", help="folder for networks and logs"), unset="DEST/work")
    add("--table", action="store_true", help="only tables, from the files that are there")
    add("--dry-run", action="store_true", help="only say which pieces there would be, and their steps")
    add("--jobs", type=int, default=1, help="pieces side by side")
    described(add("--dataset", default="nyuv2", help="whose photographs"), DATASETS)
    add("--data-root", help="folder of the data")
    config = add("--config", action="append", default=[], help="YAML file with settings, repeatable")
    described(config, unset=CONFIG)
    add("--set", action="append", default=[], help="one setting of all commands, repeatable")
    add("--val-share", help="of the training images, where the index has no split 'val'")
    described(add("--only", default=",".join(PARTS), help="some of the parts"), PARTS)
    add("--seeds", default="30", help="of the promises: how many from 0 on, or a list such as 4,7")
    add("--size-seeds", default="3", help="of the sizes, likewise")
    promise = add("--promise", action="append", default=[], help="limits that seeds take in turn, repeatable")
    described(promise, unset="5, 2 and 10 % for all, 2 % for one task and 10 % for the others")
    sizes = add("--sizes", action="append", default=[], help="limits whose sizes are compared, repeatable")
    described(sizes, unset="1, 2 and 5 % for all, 0.5 % for one task and 10 % for the others")
    add("--level", type=float, default=0.95, help="of the promises")
    add("--size-level", type=float, default=0.8, help="of the sizes")
    add("--ratios", default="50,70,80,86,90,93,95,97", help="sparsities of the grid, percent")
    add("--round-steps", type=int, default=150, help="fine-tuning in a round of a search")
    add("--grid-steps", type=int, default=400, help="all training of a network of the grid")
    add("--criterion", help="of contract, uniform and disparse_pt")
    asked = words.parse_args()
    if asked.table:
        for name, value in vars(asked).items():
            if name not in ("dest", "table") and value != words.get_default(name):
                words.error(f"--table reads the files of --dest alone: leave --{name.replace('_', '-')} out")
    else:
        complete(asked, words)
    return asked


def complete(asked: argparse.Namespace, words: Parser) -> None:
    """Fill in what the settings say; an error of the parser for what cannot be."""
    for part in asked.only.split(","):
        if part not in PARTS:
            words.error(f"--only: part {part!r} is not one of {', '.join(PARTS)}")
    if asked.jobs < 1:
        words.error(f"--jobs {asked.jobs} is not at least 1")
    asked.config = asked.config or [CONFIG]
    asked.work = asked.work or str(Path(asked.dest) / "work")
    asked.promise_seeds = parse_seeds(asked.seeds) if "promise" in asked.only else []
    asked.size_seeds = parse_seeds(asked.size_seeds) if "sizes" in asked.only else []
    asked.ratios = parse_numbers("--ratios", asked.ratios, float)
    config = settings_of(asked, "--data-root", "--val-share")
    asked.data_root = config.data.root
    terminal.check_data(config.data)
    asked.digest = result_digest(as_tree(config))
    asked.dense_steps, asked.finetune_lr = config.optim.iterations, config.finetune.lr
    if len(config.data.tasks) < 2:
        words.error(f"contracts weigh tasks against each other, and there is only {config.data.tasks[0]!r}")
    check_val_share(config)
    if asked.criterion:
        find_criterion(asked.criterion)
    for level in (asked.level, asked.size_level):
        check_level(level, config.contract.resamples)
    first, second = config.data.tasks[:2]
    asked.promise = asked.promise or [
        *("all=5", "all=2", "all=10"),
        *(f"{task}=2,all=10" for task in (first, second)),
    ]
    asked.sizes = asked.sizes or [
        *("all=1", "all=2", "all=5"),
        *(f"{task}=0.5,all=10" for task in (first, second)),
    ]
    tasks = DATASETS[asked.dataset].make_tasks(config.data.tasks, config.data, config.run.protocol)
    asked.wanted = {one: parse_limits(one.split(","), tasks) for one in (*asked.promise, *asked.sizes)}
    for piece in pieces(asked):
        piece.check()


def main() -> None:
    asked = arguments()
    if asked.table:
        print(tables(Path(asked.dest)))
        return
    left = unfinished(pieces(asked))
    for part in ("dense", *PARTS):
        mine = [piece for piece in left if piece.part == part]
        steps = sum(piece.expected_steps for piece in mine)
        print(f"{part}: {len(mine)} pieces to do, about {steps:,} steps of training", flush=True)
    if asked.dry_run:
        print("\n".join(piece.name for piece in left))
        return
    terminal.check_targets(asked.dest)
    Path(asked.dest).mkdir(parents=True, exist_ok=True)
    with StopRequest() as stop:
        serve(*LOADED)  # the server ends with the thread that starts it
        try:
            failed = run_all(left, asked.jobs, stop)
        except Stopped as error:
            print("stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(128 + error.number)
    if failed:
        sys.exit(f"{failed} pieces are not done; the same command tries them again")


if __name__ == "__main__":
    terminal.run(main)
