"""The flags of every script: one word means the same everywhere, dash or underscore.

A flag that was not given stays None and changes nothing; the others go to the setting beside them in FLAGS.
"""

from __future__ import annotations

import argparse
import shlex
from typing import NamedTuple

from .load import DATASETS, merge, parse_assignments, paths

Tree = dict


class Flag(NamedTuple):
    """One flag: the settings it fills, its type, and its help."""

    settings: tuple[str, ...]
    kind: type
    help: str
    group: str


FLAGS = {
    "data-root": Flag(("data.root",), str, "folder that holds the data set and its index", "data"),
    "tasks": Flag(("data.tasks",), str, "train any subset, such as seg,sn", "data"),
    "classes": Flag(("data.classes",), int, "segmentation classes", "data"),
    "batch-size": Flag(("data.batch_size",), int, "images in a training batch, over all devices", "data"),
    "num-workers": Flag(("data.num_workers",), int, "loader processes; changes speed only", "data"),
    "skip-unreadable": Flag(
        ("data.skip_unreadable",), int, "broken samples to replace before stopping", "data"
    ),
    "cache": Flag(("data.cache",), str, "folder for decoded images, built once", "data"),
    "protocol": Flag(("run.protocol",), str, "paper (published numbers) or metric (right units)", "data"),
    "backbone": Flag(("model.backbone",), str, "resnet18 or resnet34", "network"),
    "width": Flag(("model.width",), float, "factor on every hidden width", "network"),
    "branch-after": Flag(("model.branch_after",), str, "last shared unit, e.g. stages.2.3", "network"),
    "backbone-weights": Flag(
        ("model.backbone_weights",),
        str,
        "start of the trunk: imagenet, or a torchvision file",
        "network",
    ),
    "ratio": Flag(("prune.ratio",), float, "sparsity, percent of the prunable weights removed", "pruning"),
    "keep-ratio": Flag(("prune.keep_ratio",), float, "share kept by each task (published rule)", "pruning"),
    "num-batches": Flag(("prune.num_batches",), int, "batches that scores are taken on", "pruning"),
    "criterion": Flag(("prune.criterion",), str, "saliency, default: the method's", "pruning"),
    "budget": Flag(("prune.budget",), str, "global, erk or uniform, default: the method's", "pruning"),
    "arbiter": Flag(("prune.arbiter",), str, "unanimous, majority or intersection", "pruning"),
    "scope": Flag(("prune.scope",), str, "all, or backbone: only shared weights", "pruning"),
    "protect": Flag(
        ("prune.protect",), str, "layers kept dense, patterns such as 'heads.*.conv3'", "pruning"
    ),
    "rounds": Flag(("prune.rounds",), int, "score again this many times on the way down", "pruning"),
    "round-iterations": Flag(("prune.round_iterations",), int, "imp: training between rounds", "pruning"),
    "rewind-step": Flag(("prune.rewind_step",), int, "lth: return to this step of the dense run", "pruning"),
    "max-iters": Flag(("optim.iterations", "finetune.iterations"), int, "training iterations", "training"),
    "lr": Flag(("optim.lr", "finetune.lr"), float, "learning rate", "training"),
    "eval-every": Flag(("run.eval_every",), int, "iterations between evaluations", "training"),
    "checkpoint-every": Flag(("run.checkpoint_every",), int, "iterations between checkpoints", "training"),
    "accumulate": Flag(("optim.accumulate",), int, "parts that a batch is computed in", "training"),
    "select-on": Flag(("run.select_on",), str, "split that chooses the best weights", "training"),
    "seed": Flag(("run.seed",), int, "everything random follows from it", "machine"),
    "device": Flag(("run.device",), str, "auto, cpu, cuda: an accelerator of Lightning Fabric", "machine"),
    "devices": Flag(("run.devices",), str, "how many of them, one process each (1)", "machine"),
    "precision": Flag(
        ("run.precision",), str, "32-true, bf16-mixed or 16-mixed; saliencies stay 32-bit", "machine"
    ),
}

SWITCHES = {
    "shuffle": Flag(("prune.shuffle",), bool, "permute each layer's mask (a control)", "pruning"),
    "compile": Flag(("run.compile",), bool, "torch.compile the network in training", "machine"),
}


class Parser(argparse.ArgumentParser):
    """Reads --num_batches as --num-batches; an error is one sentence and status 2."""

    def parse_known_args(self, args=None, namespace=None):
        import sys

        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_dashed(word) for word in args], namespace)

    def error(self, message: str):
        self.exit(2, f"error: {message}\n")


def _dashed(word: str) -> str:
    if not word.startswith("--"):
        return word
    flag, sign, value = word.partition("=")
    return flag.replace("_", "-") + sign + value


def parser(description: str, examples: str, groups: tuple[str, ...]) -> Parser:
    """A script's parser with --dataset, --dest, --config, --set and the flags of `groups`."""
    result = Parser(
        description=description,
        epilog=f"examples:\n{examples}\n\nEvery setting can be changed with --set SECTION.FIELD=VALUE:\n  "
        + "\n  ".join(_wrapped(paths())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--dataset", default="nyuv2", metavar="NAME", help=f"{', '.join(DATASETS)} (nyuv2)")
    result.add_argument(
        "--dest", default="outputs", metavar="DIR", help="where files go, made if missing (outputs)"
    )
    result.add_argument("--name", help="name of this experiment's files, default DATASET_METHOD_RATIO")
    result.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="settings laid over (repeat)"
    )
    result.add_argument("--set", action="append", default=[], metavar="A.B=C", help="one setting (repeat)")
    for title in groups:
        group = result.add_argument_group(title)
        for name, flag in FLAGS.items():
            if flag.group == title:
                group.add_argument(f"--{name}", type=str, metavar=flag.kind.__name__.upper(), help=flag.help)
        for name, flag in SWITCHES.items():
            if flag.group == title:
                group.add_argument(f"--{name}", action="store_true", default=None, help=flag.help)
    return result


def _wrapped(words: list[str], width: int = 100) -> list[str]:
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    return lines


def flags_tree(arguments: argparse.Namespace) -> Tree:
    """What the command line said, as nested settings: flags first, --set over them."""
    tree: Tree = {}
    for name, flag in (FLAGS | SWITCHES).items():
        value = getattr(arguments, name.replace("-", "_"), None)
        for setting in flag.settings if value is not None else ():
            section, field = setting.split(".")
            try:
                tree.setdefault(section, {})[field] = flag.kind(value)
            except ValueError:
                needs = "a whole number" if flag.kind is int else "a number"
                raise ValueError(f"--{name} needs {needs}, not '{value}'") from None
    return merge(tree, parse_assignments(arguments.set))


def flags_text(arguments: argparse.Namespace) -> str:
    """The settings of a command line as a shell would take them again; --ratio left out, names carry it."""
    words = [word for file in arguments.config for word in ("--config", file)]
    for name in FLAGS | SWITCHES:
        value = getattr(arguments, name.replace("-", "_"), None)
        if value is not None and name != "ratio":
            words += [f"--{name}"] if name in SWITCHES else [f"--{name}", value]
    words += [word for assignment in arguments.set for word in ("--set", assignment)]
    return shlex.join(words)
