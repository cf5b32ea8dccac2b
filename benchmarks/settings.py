"""The settings of a benchmark that takes --dataset, --config, --set and, where it wants them, other flags."""

from __future__ import annotations

import argparse

from configs.arguments import flags_tree, parser
from configs.load import load
from configs.schema import Config


def settings_of(asked: argparse.Namespace, *flags: str) -> Config:
    """What asked.dataset, asked.config and asked.set come to, and those of these flags that were given.

    flags: such as "--data-root", of the groups data and training. Errors are those of the scripts.
    """
    words = ["--dataset", asked.dataset, *(word for one in asked.set for word in ("--set", one))]
    for flag in flags:
        given = getattr(asked, flag.removeprefix("--").replace("-", "_"))
        words += [flag, given] if given else []
    return load(
        asked.dataset, asked.config, flags_tree(parser("", "", ("data", "training")).parse_args(words))
    )
