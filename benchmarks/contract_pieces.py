"""The pieces of the benchmark of contracts: which commands each runs, and the JSON file that it leaves."""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from common.command_line import Parser
from common.files import read_json, write_json
from common.names import BASELINE, ratio_text
from configs.arguments import flags_tree, parser
from configs.load import load
from prune_utils.bootstrap import KIND
from prune_utils.methods import METHODS

CREATE, LAUNCH, LOSSES = "create_pruned_net.py", "launch_training.py", "benchmarks/contract_losses.py"
TURNED, UNIFORM = "contract", "uniform"  # with dual ascent; all factors stay 1
GRID = ("disparse_pt", "imp", "gmp")
ROUNDS_EXPECTED = 15  # of a search, for the sum of steps that is told before
SEARCH = {  # a coarse search, which needs few rounds: the factors are 1, 2 and 4
    "contract.resolution": 4,
    "contract.stride": 16,
    "contract.turn": 2,
    "contract.turns": 2,
}
FALLS = 4  # the rate of fine-tuning falls every quarter of it: its last steps wander less
IMP_ROUNDS = 4
DIVERGED = "(a smaller --lr may help)"  # ends what training says that came to no number
BEFORE, AFTER = "untrained", "trained"  # of a network of the grid: before and after its fine-tuning
ABOUT = ("kept", "total", "size", "factors", "finetune", "validation", "test", "widths")


class Command(NamedTuple):
    """A script, its words, and the exit statuses that are no failure."""

    script: str
    words: tuple[str, ...]
    allowed: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Piece:
    """One JSON file, DEST/NAME.json, and what makes it.

    part: "dense", "promise" or "sizes". kind: TURNED, UNIFORM, one of GRID, or "dense". limits: as --max-drop
    takes them, of searches. ratio: percent, of the grid. level: of the bounds.
    """

    asked: argparse.Namespace
    part: str
    kind: str
    seed: int
    limits: str | None = None
    ratio: float | None = None
    level: float | None = None

    @property
    def name(self) -> str:
        what = "" if self.limits is None else "_" + re.sub(r"[^\w.]+", "_", self.limits)
        what = what if self.ratio is None else f"_{ratio_text(self.ratio)}"
        part = "" if self.kind in (self.part, *GRID) else f"{self.part}_"
        return f"seed{self.seed}_{part}{self.kind}{what}"

    @property
    def result(self) -> Path:
        return Path(self.asked.dest) / f"{self.name}.json"

    @property
    def log(self) -> Path:
        return Path(self.asked.work) / "logs" / f"{self.name}.log"

    @property
    def folder(self) -> Path:
        """Of its networks."""
        return Path(self.asked.work) / f"seed{self.seed}"

    @property
    def dense(self) -> Path:
        """The trained dense network that it starts from, or makes."""
        return self.folder / f"final_{self.asked.dataset}_{BASELINE}.pth"

    @property
    def ready(self) -> bool:
        """Whether its dense network is there, made by the dense piece of its seed."""
        if self.kind == "dense":
            return True
        return self.dense.is_file() and Piece(self.asked, "dense", "dense", self.seed).done

    def lost(self, said: str) -> bool:
        """Whether what a command ended with is that a network of the grid came to no number: it keeps no
        limit then, as a round of a search that does."""
        return self.ratio is not None and said.endswith(DIVERGED)

    # ----------------------------------------------------------------------- commands
    def commands(self) -> Iterator[Command]:
        """What is to be run, one after the other; each goes on where it was stopped."""
        if self.kind == "dense":
            yield Command(LAUNCH, (*self._words(), "--method", BASELINE, "--resume"))
        elif self.limits is not None:
            words = [*self._words(), "--max-drop", self.limits, "--level", str(self.level)]
            words += ["--name", self.name, *self._criterion(), *_set(SEARCH)]
            words += [*_finetuned(self.asked.round_steps), "--init-from", str(self.dense)]
            words += _set({"contract.turns": 0}) if self.kind == UNIFORM else []
            yield Command(CREATE, tuple(words), (0, 1))
        else:
            yield from self._grid()

    def _grid(self) -> Iterator[Command]:
        row, steps = METHODS[self.kind], self.asked.grid_steps
        words = [*self._words(), "--method", self.kind, "--ratio", str(self.ratio), "--name", self.name]
        words += self._criterion() if row.criterion is None else []
        if row.retrain:  # half of its steps lie between the rounds
            every = max(1, steps // 2 // IMP_ROUNDS)
            words += ["--rounds", str(IMP_ROUNDS), "--round-iterations", str(every)]
            steps -= every * IMP_ROUNDS
        words += _finetuned(steps)
        if row.by_itself:  # it prunes while it trains: from the dense network, at the rate of fine-tuning
            words += ["--init-from", str(self.dense), *_set({"optim.iterations": steps})]
            words += _set({"optim.lr": self.asked.finetune_lr})
        else:
            yield Command(CREATE, (*words, "--init-from", str(self.dense), "--resume"))
            yield self._look(self.folder / f"{self.name}.pth", BEFORE)
        yield Command(LAUNCH, (*words, "--resume"))
        yield self._look(self.folder / f"final_{self.name}.pth", AFTER)

    def check(self) -> None:
        """ValueError for settings that its commands would refuse."""
        for script, words, _ in self.commands():
            if script != LOSSES:
                asked = _parser().parse_args(words)
                load(asked.dataset, asked.config, flags_tree(asked))

    def _look(self, network: Path, when: str) -> Command:
        """What a network of the grid loses, written down."""
        looks = ["--weights", str(network), "--init-from", str(self.dense), "--level", str(self.level)]
        return Command(LOSSES, (*self._words(), *looks, "--out", str(self._losses(when))))

    def _words(self) -> list[str]:
        """The words that every command begins with."""
        asked = self.asked
        words = ["--dataset", asked.dataset, "--data-root", asked.data_root, "--seed", str(self.seed)]
        words += [word for file in asked.config for word in ("--config", file)]
        words += ["--logger", "none", "--dest", str(self.folder)]
        # no image of the validation set chooses weights: the last ones count, and are looked at once
        words += _set({"run.preflight": "false", "run.curves": "false", "run.eval_every": asked.dense_steps})
        words += ["--val-share", asked.val_share] if asked.val_share else []
        return [*words, *(word for one in asked.set for word in ("--set", one))]

    def _criterion(self) -> list[str]:
        return ["--criterion", self.asked.criterion] if self.asked.criterion else []

    # ------------------------------------------------------------------------- results
    @property
    def about(self) -> dict[str, Any]:
        """What was asked for, as its file begins."""
        asked = self.asked
        return {
            "part": self.part,
            "kind": self.kind,
            "seed": self.seed,
            "limits": self.limits,
            "wanted": asked.wanted.get(self.limits),
            "ratio": self.ratio,
            "ratios": None if self.ratio is None else asked.ratios,
            "dataset": asked.dataset,
            "config": asked.config,
            "settings": asked.set,
        } | self._identity

    @property
    def _identity(self) -> dict[str, Any]:
        """What a file of the same name may have been made with otherwise. digest: of all settings that can
        change a result."""
        asked = self.asked
        if self.kind == "dense":
            return {"digest": asked.digest, "steps": asked.dense_steps}
        made = {"digest": asked.digest, "level": self.level, "bound": KIND, "criterion": asked.criterion}
        made |= {"falls": FALLS}
        if self.limits is None:
            return made | {"steps": asked.grid_steps, "imp_rounds": IMP_ROUNDS}
        return made | {"round_steps": asked.round_steps, "search": SEARCH}

    @property
    def done(self) -> bool:
        """Whether its file is there. ValueError where that was made with something else."""
        if not self.result.is_file():
            return False
        found = read_json(self.result)
        for name, value in self._identity.items():
            if name not in found or found[name] != value:
                said = f"{name} {found.get(name, 'unknown')}, not {value}"
                raise ValueError(f"{self.result} was made with {said}: take that, or another --dest")
        return True

    def _losses(self, when: str) -> Path:
        return self.folder / f"{self.name}_losses_{when}.json"

    def write(self, said: str) -> None:
        """The JSON file, from what the commands left. said: their last line."""
        about = self.about
        if self.limits is not None:
            about |= self._found(said)
        elif self.kind != "dense":
            looks = {when: self._losses(when) for when in (BEFORE, AFTER)}
            found = {when: json.loads(path.read_text()) for when, path in looks.items() if path.is_file()}
            about |= {"looks": found} | ({"said": said} if AFTER not in found else {})
        write_json(self.result, about)

    def _found(self, said: str) -> dict[str, Any]:
        """What a search found, and all its rounds."""
        with (self.folder / f"{self.name}_search.csv").open(newline="") as file:
            rounds = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        found: dict[str, Any] = {"rounds": rounds}
        found["steps"] = self.asked.round_steps * sum(int(row["trained"]) for row in rounds)
        certificate = self.folder / f"{self.name}_limits.json"
        if not certificate.is_file():
            return found | {"certified": False, "said": said}
        content = json.loads(certificate.read_text())
        return found | {"certified": True} | {name: content[name] for name in ABOUT}

    @property
    def expected_steps(self) -> int:
        """Steps of training; of a search, as many as it usually needs."""
        if self.kind == "dense":
            return int(self.asked.dense_steps)
        return int(self.asked.grid_steps if self.limits is None else ROUNDS_EXPECTED * self.asked.round_steps)


def _parser() -> Parser:
    """Of the words that create_pruned_net.py and launch_training.py are given."""
    words = parser("", "", ("data", "network", "pruning", "contract", "training", "machine"))
    for flag in ("--method", "--init-from"):
        words.add_argument(flag)
    words.add_argument("--resume", action="store_true")
    return words


def _finetuned(steps: int) -> list[str]:
    return _set({"finetune.iterations": steps, "optim.step_every": max(1, steps // FALLS)})


def _set(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def pieces(asked: argparse.Namespace) -> list[Piece]:
    """Every piece, in the order in which they are begun once their dense network is there.

    First as many promises as there are processes, then the sizes of one seed, the other promises, the sizes
    of the other seeds: an early end leaves some of both.
    """
    promises = [_promise(asked, seed) for seed in asked.promise_seeds]
    sizes = [list(_sizes(asked, seed)) for seed in asked.size_seeds]
    ordered = [*promises[: asked.jobs], *sizes[:1], *promises[asked.jobs :], *sizes[1:]]
    found: dict[str, Piece] = {}
    for group in ordered:
        for piece in group:
            found.setdefault(piece.name, piece)
    return list(found.values())


def unfinished(todo: Sequence[Piece]) -> list[Piece]:
    """Those whose file is not there, and the dense networks that these need and that are gone."""
    left = [piece for piece in todo if not piece.done]
    needed = {piece.dense for piece in left if not piece.ready}
    return [piece for piece in todo if piece in left or (piece.kind == "dense" and piece.dense in needed)]


def _promise(asked: argparse.Namespace, seed: int) -> list[Piece]:
    limits = asked.promise[seed % len(asked.promise)]
    return [
        Piece(asked, "dense", "dense", seed),
        Piece(asked, "promise", TURNED, seed, limits=limits, level=asked.level),
    ]


def _sizes(asked: argparse.Namespace, seed: int) -> Iterable[Piece]:
    yield Piece(asked, "dense", "dense", seed)
    for limits in asked.sizes:
        for kind in (TURNED, UNIFORM):
            yield Piece(asked, "sizes", kind, seed, limits=limits, level=asked.size_level)
    for ratio in asked.ratios:
        for method in GRID:
            yield Piece(asked, "sizes", method, seed, ratio=ratio, level=asked.size_level)
