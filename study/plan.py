"""The plan of a study: methods, ratios and seeds become a list of runs, each a few commands of the scripts.

One folder a seed, one name a run. Nothing here runs anything or imports torch.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.choices import nearest, not_one_of
from common.names import BASELINE, file_word, ratio_text, result_file, variant_words
from configs.arguments import FLAGS, SWITCHES, flags_tree, parser
from configs.load import Tree, as_tree, carried, overlay, paths, settings
from configs.schema import Config
from prune_utils.methods import METHODS, Method, method

OURS = ("ratio", "seed", "name", "dest", "method", "dataset")  # said once for the whole study
REWIND = "prune.rewind_step"
ALONE = "alone"  # folder of the networks for one task, beside the others of a seed
ON, OFF = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Variant:
    """A method with flags of its own: `disparse_static:rounds=12`. row: None for the dense baseline."""

    row: Method | None
    flags: tuple[tuple[str, str], ...] = ()

    @property
    def method(self) -> str:
        return self.row.name if self.row else BASELINE

    @property
    def _words(self) -> list[str]:
        return [f"{flag}={value}" for flag, value in self.flags]

    @property
    def text(self) -> str:
        """As --methods takes it: `disparse_static:rounds=12`."""
        return ":".join([self.method, *self._words])

    @property
    def label(self) -> str:
        """The form for file names: `disparse_static+rounds=12`."""
        return "+".join([self.method, *map(file_word, self._words)])

    @property
    def training(self) -> str:
        """Length of its training: full or finetune."""
        return self.row.training if self.row else "full"

    @property
    def settings(self) -> dict[str, str]:
        """What its flags say, by setting."""
        named = FLAGS | SWITCHES
        return {
            setting: value
            for flag, value in self.flags
            for setting in (named[flag].settings if flag in named else (flag,))
        }

    def words(self) -> list[str]:
        """Its flags as words of a command line."""
        words = []
        for flag, value in self.flags:
            if self.row is None:  # a reference: whatever else the study says of this setting
                words += ["--set", f"{FLAGS[flag].settings[0]}={value}"]
            elif flag in SWITCHES:
                off = ["--set", f"{SWITCHES[flag].settings[0]}=false"]  # the study may have it on
                words += [f"--{flag}"] if value.lower() in ON else off
            else:
                words += [f"--{flag}", value] if flag in FLAGS else ["--set", f"{flag}={value}"]
        return words


def parse_variant(text: str) -> Variant:
    """`METHOD[:flag=value...]`, a flag of create_pruned_net.py or a setting `section.field`.

    Raises ValueError with the choices for whatever is not known.
    """
    name, *assignments = variant_words(text)
    if name == BASELINE and assignments:
        raise ValueError(f"'{text}': {BASELINE} has no variants, its flags are for the whole study")
    flags = []
    for assignment in assignments:
        flag, sign, value = assignment.partition("=")
        flag = flag.replace("_", "-") if "." not in flag else flag
        known = {*FLAGS, *SWITCHES, *paths()} - {*OURS, "prune.ratio", "run.seed"}
        of_tasks = f"{flag.rpartition('.')[0]}.TASK"
        if not sign or not {flag, of_tasks} & known:
            choices = [*(f for f in FLAGS if FLAGS[f].group == "pruning" and f in known), *SWITCHES]
            near = nearest(flag, known)
            hint = f"; did you mean '{near}'?" if near and near != flag else ""
            raise ValueError(
                f"'{text}': '{assignment}' is not one of {', '.join(choices)}, each with =value{hint}"
            )
        if flag in SWITCHES and value.lower() not in (*ON, *OFF):
            raise ValueError(f"'{text}': {flag} is true or false, not '{value}'")
        flags.append((flag, value))
    return Variant(None if name == BASELINE else method(name), tuple(flags))


def check_tasks(variants: Sequence[Variant], tasks: Sequence[str]) -> None:
    """ValueError for a number that a variant sets for a task which there is not."""
    known = paths()
    for variant in variants:
        for flag, _ in variant.flags:
            setting, _, task = flag.rpartition(".")
            if f"{setting}.TASK" in known and task not in tasks:
                raise ValueError(not_one_of(f"the task of {flag}", task, tasks))


def check_set(asked: Tree, variants: Sequence[Variant], seeds: str, ratios: str | None) -> None:
    """ValueError for what --set says of a setting that the plan gives to each run by a flag: --set lies over
    flags. asked: what --set says; seeds, ratios: as the command line says them, None = not at all.
    """
    for setting, what, flag, instead in (
        ("run.seed", "seed", f"--seeds {seeds}", "--seed or --seeds"),
        ("prune.ratio", "ratio", ratios and f"--ratios {ratios}", "--ratios"),
    ):
        said = _assignment(asked, setting)
        if said and flag:
            raise ValueError(
                f"--set {said} would be the {what} of every run, whatever {flag} says: use {instead}"
            )
    for variant in variants:
        for flag, value in variant.flags:
            for setting in (FLAGS | SWITCHES)[flag].settings if flag in FLAGS | SWITCHES else ():
                said = _assignment(asked, setting)
                if said:
                    raise ValueError(
                        f"--set {said} would lie over {flag}={value} of {variant.method} in --methods: "
                        "leave one of them out"
                    )


def _assignment(tree: Tree, setting: str) -> str:
    """What a tree says of a setting, as --set takes it; "" for nothing."""
    section, _, field = setting.partition(".")
    fields = tree.get(section, {})
    return f"{setting}={as_text(fields[field])}" if field in fields else ""


def as_text(value: Any) -> str:
    """A value of a setting as --set takes it."""
    return json.dumps(value, ensure_ascii=False)


def parse_methods(text: str) -> list[Variant]:
    """Comma-separated variants; `all` is every method as it is. The dense baseline is always the first.

    The value of a list may hold commas (`protect=a,b`): it ends before a method's name.
    """
    words: list[str] = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        if words and word.partition(":")[0] not in ("all", BASELINE, *METHODS) and _ends_in_list(words[-1]):
            words[-1] += f",{word}"
        else:
            words.append(word)
    if not words:
        raise ValueError(f"--methods needs all, or names from {', '.join(METHODS)}")
    listed = [part for word in words for part in (METHODS if word == "all" else [word])]
    variants = [parse_variant(word) for word in (BASELINE, *listed)]
    return list(dict.fromkeys(variants))


def _ends_in_list(text: str) -> bool:
    """Whether the last value of a variant is one of a setting that takes several."""
    flag = (variant_words(text)[1:] or [""])[-1].partition("=")[0]
    flag = flag if "." in flag else flag.replace("_", "-")
    section, _, field = (FLAGS[flag].settings[0] if flag in FLAGS else flag).partition(".")
    return isinstance(as_tree(Config()).get(section, {}).get(field), list)


def single_tasks(tasks: tuple[str, ...], widths: tuple[float | None, ...]) -> tuple[Variant, ...]:
    """Dense networks for one task each, as references. widths: of the networks, None = the study's own."""
    wide = [() if width is None else (("width", f"{width:g}"),) for width in widths]
    return tuple(Variant(None, (("tasks", task), *flags)) for flags in wide for task in tasks)


def read(words: Iterable[str]) -> Namespace:
    """The words of a run's command, as its script reads them."""
    reader = parser("", "", ("data", "network", "pruning", "training", "machine"))
    reader.add_argument("--method")
    reader.add_argument("--resume", action="store_true")
    return reader.parse_args(list(words))


def not_carried(words: Iterable[str]) -> dict[str, Any]:
    """What a command line says that a saved network does not bring to its evaluation: where data lie, how the
    machine works. "section.field" -> value; raises as `overlay` does.
    """
    asked, brought = read(words), carried({})
    given = overlay(asked.dataset, asked.config, flags_tree(asked))
    return {
        f"{section}.{field}": given[section][field]
        for section, field, _ in settings()
        if field in given.get(section, ()) and field not in brought.get(section, ())
    }


@dataclass(frozen=True)
class Command:
    """One call of a script. kind: create, launch or eval."""

    kind: str
    script: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run: a variant at a ratio (None for the baseline) with a seed; `name` is the stem of its files."""

    variant: Variant
    ratio: float | None
    seed: int
    folder: Path
    name: str
    commands: tuple[Command, ...]
    split: str = "test"

    @property
    def result(self) -> Path:
        """Written by its last command: a run with this file is finished."""
        return self.folder / result_file(self.name, self.split)

    @property
    def is_dense(self) -> bool:
        """Whether it is the multitask network that methods start from, and no reference for one task."""
        return self.variant.row is None and not self.variant.flags

    @property
    def needs_dense(self) -> bool:
        """Whether it starts from the trained dense network of its seed."""
        return self.variant.row is not None and self.variant.row.needs_dense

    def finished(self, command: Command) -> bool:
        """Whether the files of one of its commands are there."""
        written = {"create": f"{self.name}.pth", "launch": f"final_{self.name}.pth", "eval": self.result.name}
        return (self.folder / written[command.kind]).is_file()


@dataclass(frozen=True)
class Study:
    """What is asked. shared: words for every script (data, network, machine); tuned: of these, evaluation
    takes what a network's file does not bring.

    references: further dense networks, trained once a seed (single_tasks).
    """

    dataset: str
    dest: Path
    variants: tuple[Variant, ...]
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    shared: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    split: str = "test"
    references: tuple[Variant, ...] = ()

    def jobs(self) -> list[Job]:
        """Every run in the order of work: seed by seed, the dense networks before what starts from them.

        Ratio by ratio on the outside, so that a study that is stopped holds whole tables.
        """
        dense = (Variant(None), *self.references)
        seen = {variant: self._seen(variant) for variant in (*dense, *self.variants)}
        plan = [self._job(variant, None, seed, seen[variant]) for seed in self.seeds for variant in dense]
        for ratio in self.ratios:
            for seed in self.seeds:
                sparse = [variant for variant in self.variants if variant.row]
                plan += [self._job(variant, ratio, seed, seen[variant]) for variant in sparse]
        _refuse_one_name(plan)
        return plan

    def _seen(self, variant: Variant) -> list[str]:
        """Words for evaluation: it sees the data and the machine that creating and training saw."""
        shared = [*self.shared, *(variant.words() if variant.row is None else ())]
        said = not_carried(("--dataset", self.dataset, *shared))
        whole = not_carried(("--dataset", self.dataset, *self.shared, *self.tuned, *variant.words()))
        for setting, value in whole.items():
            if setting not in said or said[setting] != value:
                shared += ["--set", f"{setting}={as_text(value)}"]
        return shared

    def _job(self, variant: Variant, ratio: float | None, seed: int, seen: list[str]) -> Job:
        reference = variant.row is None and bool(variant.flags)
        # apart: a dense run keeps early weights under a name that methods look for
        folder = self.dest / f"seed{seed}" / (ALONE if reference else "")
        name = f"{self.dataset}_{variant.label}" + ("" if ratio is None else f"_{ratio_text(ratio)}")
        where = ["--dataset", self.dataset, "--method", variant.method, "--name", name, "--dest", str(folder)]
        where += [] if ratio is None else ["--ratio", ratio_text(ratio)]
        tuned = [*self.shared, *self.tuned, "--seed", str(seed), *variant.words()]
        if variant.row is None and not reference:
            tuned += self._rewind_words()
        commands = [
            Command("launch", "launch_training.py", (*where, *tuned, "--resume")),
            Command("eval", "eval_pruned_net.py", (*where, *seen, "--split", self.split)),
        ]
        if variant.row and not variant.row.by_itself:
            commands.insert(0, Command("create", "create_pruned_net.py", (*where, *tuned, "--resume")))
        return Job(variant, ratio, seed, folder, name, tuple(commands), self.split)

    def _rewind_words(self) -> list[str]:
        """The dense run must keep the early weights that a variant returns to."""
        rewound = [v.settings for v in self.variants if v.row and v.row.start == "rewound"]
        asked = {said.get(REWIND, "the default") for said in rewound}
        if len(asked) > 1:
            steps = ", ".join(sorted(asked))
            raise ValueError(f"a dense run keeps its weights of one rewind-step, not of several: {steps}")
        return ["--rewind-step", *asked] if asked - {"the default"} else []


def _refuse_one_name(jobs: Iterable[Job]) -> None:
    """ValueError where two different runs would have the same files."""
    taken: dict[tuple[Path, str], Job] = {}
    for job in jobs:
        other = taken.setdefault((job.folder, job.name), job)
        if other != job:
            both = " and ".join(
                one.variant.text + ("" if one.ratio is None else f" at {ratio_text(one.ratio)} %")
                for one in (other, job)
            )
            raise ValueError(f"{both} would both be named {job.name}: leave one of them out")
