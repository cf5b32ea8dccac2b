# PYTHON_ARGCOMPLETE_OK
"""`python3 -m comparison.sheet FILE`: the certificate of a saved network, its picture and its table.

A saved network is a dictionary with `network` (what its class is called with), `mask`, `certificate` and, if
it is there, `config`. The class is named on the command line, so that any network can be shown.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.command_line import Parser, ending
from common.files import check_apart, replacing
from common.names import network_file
from prune_utils.inventory import Layer, inventory, markdown
from prune_utils.masks import check_mask
from prune_utils.picture import draw
from prune_utils.report import format_certificate
from prune_utils.sparse_file import read_sparse

MODEL = "models.multitask:MultiTaskNet"
SIZE = 256  # pixels, where the file does not say what it was trained on


def main(words: list[str] | None = None) -> int:
    """The command; exit status 0, or 2 after one sentence about what is wrong."""
    asked = _parser().parse_args(words)

    def work() -> int:
        source = network_file(Path(asked.file))
        check_apart(asked.png, "--png", source)
        check_apart(asked.markdown, "--markdown", source)
        content = read(source)
        shape = _size(asked.size, content)
        layers = layers_of(content, asked.model, shape)
        cert = content.get("certificate")
        print(format_certificate(cert) if cert else "a dense network: nothing is pruned")
        for path, write in ((asked.png, _png), (asked.markdown, _markdown)):
            if path:
                print(f"wrote {write(content, layers, shape, Path(path))}")
        return 0

    return ending(work)


def _parser() -> Parser:
    result = Parser(prog="python3 -m comparison.sheet", description=__doc__.split("\n")[0])
    result.add_argument("file", metavar="FILE", help="a saved network, .pth or .safetensors, or its folder")
    result.add_argument("--png", metavar="OUT", help="picture to write")
    result.add_argument("--markdown", metavar="OUT", help="Markdown table to write")
    result.add_argument("--size", metavar="HxW", help="image of the multiply-adds, if not the crop")
    result.add_argument("--model", default=MODEL, metavar="MODULE:CLASS", help="its class")
    return result


def read(path: Path) -> dict[str, Any]:
    """A saved network with its plain fields; FileNotFoundError or ValueError in one sentence."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        found = read_sparse(path)
        content = {**found.extra, "mask": found.mask}
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise ValueError(f"{path} is damaged or no file of PyTorch") from error
    if not isinstance(content, dict) or not isinstance(content.get("network"), dict):
        raise ValueError(f"{path} does not say how its network is built: it has no field 'network'")
    return content


def layers_of(content: dict[str, Any], model: str, shape: tuple[int, int]) -> list[Layer]:
    """The layers of a saved network. model: "module:class", called with what the field `network` holds."""
    mask = content.get("mask")
    network = build(model, content["network"])
    check_mask(network, mask or {})
    return inventory(network, mask, (2, 3, *shape))  # two images: batch norms may need more than one value


def build(model: str, how: dict[str, Any]) -> nn.Module:
    """The network on the meta device: shapes without values. ValueError for a class that is not there,
    or that is called otherwise."""
    module, _, name = model.partition(":")
    sys.path.insert(0, os.getcwd())  # a user's own module lies where the command is started
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--model {model} names no class of an importable module: {error}") from error
    finally:
        sys.path.pop(0)
    try:
        with torch.device("meta"):
            return kind(**how)
    except TypeError as error:
        raise ValueError(
            f"--model {model} is not called as the file's field 'network' says: {error}"
        ) from error


def _size(asked: str | None, content: dict[str, Any]) -> tuple[int, int]:
    if asked is None:
        side = (content.get("config") or {}).get("data", {}).get("crop", SIZE)
        return side, side
    parts = asked.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--size {asked!r} is not HEIGHTxWIDTH, for example 480x640")
    return int(parts[0]), int(parts[1])


def _title(content: dict[str, Any]) -> str:
    cert = content.get("certificate")
    name = content.get("name", "network")
    return f"{name}: sparsity {cert['ratio']:.2f} %" if cert else f"{name}: dense"


def _png(content: dict[str, Any], layers: list[Layer], shape: tuple[int, int], path: Path) -> Path:
    return draw(layers, _title(content), shape, path)


def _markdown(content: dict[str, Any], layers: list[Layer], shape: tuple[int, int], path: Path) -> Path:
    note = f"Multiply-adds for one image of {shape[0]} x {shape[1]}."
    with replacing(path) as temporary:
        temporary.write_text(f"# {_title(content)}\n\n{note}\n\n{markdown(layers)}", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
