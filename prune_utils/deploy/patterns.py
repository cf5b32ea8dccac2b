"""Whether an exported file holds the pattern that hardware was promised: counted in the file itself.

Of every layer that the certificate in the file says was pruned, groups of M neighbours along the input
channels must have at most N weights other than 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..granularity import WEIGHT, Granularity, Neighbours, find_granularity
from .packages import need


@dataclass(frozen=True)
class Found:
    """groups: in the layers of the pattern. wrong: groups that break it, by layer, where there are any.

    dense: layers outside the pattern, which no hardware speeds up.
    """

    granularity: str
    groups: int
    wrong: dict[str, int]
    dense: tuple[str, ...]


def pattern_of(path: str | Path, granularity: str | None = None) -> Found:
    """Counts the groups of an N:M pattern in an ONNX file.

    granularity: such as "2:4"; None = that of the certificate in the file. Without a certificate in it every
    layer that the pattern divides counts.
    ValueError where there is no pattern to look for, or the file holds no weights of a layer by name.
    """
    onnx = need("onnx")
    model = _loaded(onnx, Path(path))
    proof = _certificate(model, path)
    name = granularity or proof.get("asked", {}).get("granularity", WEIGHT.name)
    pattern = find_granularity(name)
    if not isinstance(pattern, Neighbours):
        raise ValueError(f"{path}: granularity {name} is no pattern N:M to be counted")
    weights = _weights(onnx, model)
    pruned = (
        set(proof["layers"]) if "layers" in proof else {n for n in weights if _divided(pattern, weights[n])}
    )
    missing = sorted(pruned - set(weights))
    if missing and "layers" in proof:
        raise ValueError(f"{path} holds no weights of layer {missing[0]!r}, which its certificate names")
    groups, wrong = 0, {}
    for layer in pruned:
        if not _divided(pattern, weights[layer]):
            raise ValueError(
                f"{path}: layer {layer!r} has {weights[layer].shape[1]} inputs, no multiple of {pattern.of}"
            )
        counts = (pattern.parts(weights[layer]) != 0).sum(-1)
        groups += counts.numel()
        broken = int((counts > pattern.keep).count_nonzero())
        if broken:
            wrong[layer] = broken
    return Found(name, groups, wrong, tuple(layer for layer in weights if layer not in pruned))


def _loaded(onnx: Any, path: Path) -> Any:
    """onnx.ModelProto; ValueError where the file is none."""
    try:
        return onnx.load(str(path))
    except OSError:
        raise
    except Exception as error:  # protobuf has an error of its own
        raise ValueError(f"{path} is damaged or no ONNX file") from error


def _certificate(model: Any, path: str | Path) -> dict[str, Any]:
    """Of the model's properties, empty where there is none; ValueError for one that is no JSON object."""
    said = next((prop.value for prop in model.metadata_props if prop.key == "certificate"), "{}")
    try:
        proof = json.loads(said) or {}
    except ValueError:
        proof = None
    if not isinstance(proof, dict):
        raise ValueError(f"{path}: its property 'certificate' is no JSON object: {ascii(said)[:60]}")
    return proof


def _divided(pattern: Granularity, weight: Tensor) -> bool:
    return pattern.divides(weight.shape)


def _weights(onnx: Any, model: Any) -> dict[str, Tensor]:
    """Layer -> its weight [outputs, inputs, ...], of convolutions, products and Gemm nodes."""
    values = {each.name: each for each in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in values:
            continue
        weight = torch.from_numpy(onnx.numpy_helper.to_array(values[node.input[1]]).copy())
        turned = any(each.name == "transB" and each.i for each in node.attribute)
        if node.op_type != "Conv" and not turned:
            weight = weight.t()
        found[node.input[1].removesuffix(".weight")] = weight
    return found
