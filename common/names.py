"""Names and constants that several rooms must agree on, said once."""

import re
from pathlib import Path

BASELINE = "baseline"  # what the scripts call the dense network as a method
PROTOCOLS = ("paper", "metric")  # conventions of training and scoring, see the README
MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)  # subtracted from every image: blue, green, red, 0..255
HUB_MODEL, HUB_CONFIG = "model.safetensors", "config.json"  # a network in a folder of its own


def network_file(path: Path) -> Path:
    """The file of a saved network; of a folder of its own, the one in it."""
    return path / HUB_MODEL if path.is_dir() else path


def variant_words(text: str) -> list[str]:
    """`METHOD[:flag=value...]` apart.

    A value may hold colons (`granularity=2:4`): what comes next begins with `name=`.
    """
    name, colon, rest = text.partition(":")
    return [name, *(re.split(r":(?=[\w.-]+=)", rest) if colon else [])]


def file_word(word: str) -> str:
    """A `flag=value` as names of files have it: `granularity=2_4`."""
    return re.sub(r"[^\w.=-]+", "_", word)


def ratio_text(ratio: float) -> str:
    """A sparsity in percent as names and command lines have it, without loss: 90, 99.5."""
    return repr(float(ratio)).removesuffix(".0")


def result_file(name: str, split: str) -> str:
    """The file of an experiment's scores on a split of the data: {name}.json for test, as documented."""
    return f"{name}.json" if split == "test" else f"{name}_{split}.json"
