"""What a contract's search finds, beside the smallest of a grid of ratios and a search without factors.

For every seed a dense network, and for every set of limits:
    turned    create_pruned_net.py --max-drop LIMITS
    uniform   the same with contract.turns=0: one factor for all tasks, no dual ascent
    METHOD    of networks pruned at each ratio of a grid and fine-tuned, the smallest that keeps the limits
The grid is judged as a contract is: chosen on the search's half of the validation images, certified on the
other half, measured on test. A network of disparse_pt and imp is fine-tuned for as long as --grid-steps says
(default: what lies behind the turned network of the first limits and this seed), gmp trains from scratch.

A file DEST/results/LIMITS_KIND_sSEED.json is written for each; the same command goes on where it stopped.

usage: python3 -m benchmarks.contract --data-root FOLDER --dest DIR [--config configs/nyuv2_small.yaml]
           [--seeds 3] [--ratios 50,60,70,80,85,90,93,95] [--val-share 0.25] [--only turned,imp] [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command_line import Parser
from common.files import write_json
from common.names import BASELINE
from common.numbers import parse_numbers, parse_seeds
from configs.load import load
from prune_utils.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
CREATE, LAUNCH = "create_pruned_net.py", "launch_training.py"
SEARCHES = {"turned": (), "uniform": ("--set", "contract.turns=0")}  # kind -> what it says beside
GRID = ("disparse_pt", "imp", "gmp")
LIMITS = ("all=1", "all=2", "all=5", "seg=0.5,all=10", "sn=0.5,all=10", "depth=0.5,all=10")


_said: set[str] = set()  # commands of this process


@dataclass(frozen=True)
class Setting:
    """What all commands of a seed are told."""

    asked: argparse.Namespace
    seed: int

    @property
    def dest(self) -> Path:
        return Path(self.asked.dest) / f"seed{self.seed}"

    def words(self) -> list[str]:
        """The words that every command begins with."""
        config = [word for file in self.asked.config for word in ("--config", file)]
        shared = [
            "--dataset",
            "nyuv2",
            *config,
            "--data-root",
            self.asked.data_root,
            "--seed",
            str(self.seed),
        ]
        shared += ["--set", "run.preflight=false", "--logger", "none", "--dest", str(self.dest)]
        if self.asked.val_share:
            shared += ["--val-share", self.asked.val_share]
        return [*shared, *(word for one in self.asked.set for word in ("--set", one))]

    def result(self, limits: str, kind: str) -> Path:
        name = re.sub(r"[^\w.]+", "_", limits)
        return Path(self.asked.dest) / "results" / f"{name}_{kind}_s{self.seed}.json"


def run(script: str, words: Sequence[str], dry: bool, allowed: tuple[int, ...] = (0,)) -> int:
    """A script in a process of its own; its status. SystemExit for one that is not allowed."""
    line = shlex.join(["python3", script, *words])
    if line not in _said or not dry:
        print(line, flush=True)
    _said.add(line)
    if dry:
        return 0
    code = subprocess.run([sys.executable, str(ROOT / script), *words], cwd=ROOT).returncode
    if code not in allowed:
        raise SystemExit(f"{script} ended with status {code}")
    return code


def dense(setting: Setting) -> None:
    """Train the dense network, unless it is there."""
    if not (setting.dest / f"final_nyuv2_{BASELINE}.pth").is_file():
        run(LAUNCH, [*setting.words(), "--method", BASELINE, "--resume"], setting.asked.dry_run)


def search(setting: Setting, limits: str, kind: str) -> None:
    """One search; its certificate, or that there is none, becomes the result."""
    name = f"{re.sub(r'[^a-z0-9]+', '_', limits)}_{kind}"
    words = [*setting.words(), "--name", name, "--max-drop", limits, *SEARCHES[kind]]
    code = run(CREATE, words, setting.asked.dry_run, (0, 1))
    if setting.asked.dry_run:
        return
    found: dict[str, Any] = {"certified": code == 0}
    if code == 0:
        content = json.loads((setting.dest / f"{name}_limits.json").read_text())
        for key in (
            "kept",
            "total",
            "sparsity",
            "factors",
            "finetune",
            "validation",
            "test",
            "smallest_limits",
        ):
            found[key] = content[key]
    write(setting, limits, kind, found)


def write(setting: Setting, limits: str, kind: str, found: dict[str, Any]) -> None:
    about = {"limits": limits, "kind": kind, "seed": setting.seed, "config": setting.asked.config}
    write_json(setting.result(limits, kind), about | found)


# ------------------------------------------------------------------------------ the grid
def grid_network(setting: Setting, method: str, ratio: float) -> Path:
    """Make and train a network of the grid, unless it is there; its file."""
    path = setting.dest / f"final_nyuv2_{method}_{ratio:g}.pth"
    if path.is_file():
        return path
    words = [*setting.words(), "--method", method, "--ratio", f"{ratio:g}", "--resume"]
    if METHODS[method].training == "finetune":
        words += ["--set", f"finetune.iterations={grid_steps(setting)}"]
    if not METHODS[method].by_itself:
        run(CREATE, words, setting.asked.dry_run)
    run(LAUNCH, words, setting.asked.dry_run)
    return path


def grid_steps(setting: Setting) -> int:
    """Iterations of fine-tuning for the networks of the grid."""
    if setting.asked.grid_steps:
        return setting.asked.grid_steps
    first = setting.result(setting.asked.limits[0], "turned")
    if first.is_file() and json.loads(first.read_text())["certified"]:
        return int(json.loads(first.read_text())["finetune"]["iterations_behind_these_weights"])
    return load("nyuv2", setting.asked.config).finetune.iterations


def judged(setting: Setting, limits: str, files: dict[float, Path]) -> dict[str, Any]:
    """The smallest network that keeps the limits on the search's half, with what the other images say."""
    from configs.arguments import flags_tree, parser
    from workflow.experiment import open_experiment
    from workflow.judging import halves, judge, kept, look
    from workflow.limits import parse_limits
    from workflow.networks import load_network, moved

    flags = parser("", "", ("data", "network", "pruning", "contract", "training", "machine"))
    asked = flags.parse_args([*setting.words(), "--max-drop", limits])
    experiment = open_experiment(load("nyuv2", asked.config, flags_tree(asked)), BASELINE, asked.dest, None)
    wanted = parse_limits(experiment.config.contract.max_drop, experiment.tasks)
    base = moved(experiment, load_network(experiment, setting.dest / f"final_nyuv2_{BASELINE}.pth").network)
    seen, unseen = halves(len(experiment.records("val")), setting.seed)
    splits = {"search": ("val", seen), "certificate": ("val", unseen), "test": ("test", None)}
    judges = {name: judge(experiment, wanted, base, *where) for name, where in splits.items()}
    found: dict[str, Any] = {"certified": False, "ratios": sorted(files)}
    for ratio in sorted(files, reverse=True):
        saved = load_network(experiment, files[ratio])
        network = moved(experiment, saved.network)
        if not kept(judges["search"].falls(look(experiment, network, *splits["search"])), wanted):
            continue
        falls = {
            name: judges[name].falls(look(experiment, network, *where)) for name, where in splits.items()
        }
        proof = saved.content["certificate"]
        return found | {
            "certified": kept(falls["certificate"], wanted),
            "kept": proof["kept"],
            "total": proof["total"],
            "sparsity": proof["ratio"],
            "drops": {name: {n: fall._asdict() for n, fall in of.items()} for name, of in falls.items()},
        }
    return found


def jobs(asked: argparse.Namespace) -> Iterator[tuple[Setting, str, str]]:
    """Setting, limits and kind of every result, in the order in which they are made."""
    for seed in parse_seeds(asked.seeds):
        for limits in asked.limits:
            for kind in asked.only:
                yield Setting(asked, seed), limits, kind


def main() -> None:
    arguments = Parser(description=__doc__.splitlines()[0])
    add = arguments.add_argument
    add("--data-root", required=True)
    add("--dest", required=True)
    add("--config", action="append", default=[])
    add("--set", action="append", default=[], help="one setting of all commands, repeatable")
    add("--seeds", default="3")
    add("--ratios", default="50,60,70,80,85,90,93,95")
    add("--limits", action="append", default=[], help="one set of limits, repeatable")
    add("--val-share", help="of the training images, where the index has no split 'val'")
    add("--only", default=",".join((*SEARCHES, *GRID)), help="some of: " + ", ".join((*SEARCHES, *GRID)))
    add("--grid-steps", type=int, default=0)
    add("--dry-run", action="store_true", help="only say which commands there would be")
    asked = arguments.parse_args()
    asked.only, asked.limits = asked.only.split(","), asked.limits or list(LIMITS)
    asked.config = asked.config or ["configs/nyuv2_small.yaml"]
    wrong = [kind for kind in asked.only if kind not in (*SEARCHES, *GRID)]
    if wrong:
        arguments.error(f"kind {wrong[0]!r} is not one of {', '.join((*SEARCHES, *GRID))}")
    ratios = parse_numbers("--ratios", asked.ratios, float)
    for setting, limits, kind in jobs(asked):
        if setting.result(limits, kind).is_file():
            continue
        dense(setting)
        if kind in SEARCHES:
            search(setting, limits, kind)
        else:
            files = {ratio: grid_network(setting, kind, ratio) for ratio in ratios}
            if not asked.dry_run:
                write(setting, limits, kind, judged(setting, limits, files))


if __name__ == "__main__":
    main()
