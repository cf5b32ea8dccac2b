"""Any pruned network written in one of the formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..files import replacing
from ..granularity import WEIGHT, find_granularity
from ..sparse_file import save_sparse
from ..text import not_one_of
from .engines import DenseEngine, check_outputs, masked_graph, on_host
from .graph import Conv, Graph, live
from .onnx_file import write_onnx
from .program import write_program


@dataclass(frozen=True)
class Format:
    """ending of the file; write(simplified graph, path, metadata, example), None = the network as it is."""

    ending: str
    write: Callable[[Graph, Path, dict[str, Any], tuple[Any, ...] | None], None] | None = None
    halves: bool = False


FORMATS = {
    "sparse": Format(".safetensors", halves=True),
    "onnx": Format(".onnx", write_onnx),
    "torch": Format(".pt2", write_program),
}


@dataclass(frozen=True)
class Exported:
    """What was written and what is left: weights that the engine could skip, kept ones, those that matter.

    A layer that runs several times in a pass counts once (live: the run that leaves most of it).
    left_dense: layers whose zeros no engine skips -> what they are.
    """

    path: Path
    prunable: int
    kept: int
    live: int
    channels_before: int
    channels_after: int
    left_dense: dict[str, str]


def find_format(name: str, half: bool) -> Format:
    """The row of that name; ValueError with the choices, or for 16 bits where there are none."""
    if name not in FORMATS:
        raise ValueError(not_one_of("format", name, FORMATS))
    if half and not FORMATS[name].halves:
        halving = [other for other, row in FORMATS.items() if row.halves]
        raise ValueError(f"half is for format {', '.join(halving)}, not for {name}")
    return FORMATS[name]


def export(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None,
    path: str | Path,
    format_name: str = "sparse",
    *,
    half: bool = False,
    certificate: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    example: tuple[Any, ...] | None = None,
) -> Exported:
    """Write a network of any class to `path`; its folder is made if missing, the file is whole or not there.

    The sparse format holds the network and loads to it bit for bit (prune_utils.load_sparse); the others hold
    the simplified graph, an ONNX model those outputs that are computed, without constants. extra: plain JSON
    values to travel along. example: arguments of one call, needed by the other formats for networks that take
    more than one image; the graph's outputs for them are compared with the network's own. ValueError in one
    sentence for a wrong format, ending, mask or certificate, for outputs that differ, and for those in a
    container that no file can name.
    """
    form, path = find_format(format_name, half), Path(path)
    if path.suffix != form.ending:
        raise ValueError(f"{path} should end in {form.ending}: format {format_name} is read by that ending")
    inputs = None if example is None else len(example)
    whole = masked_graph(model, None, simplified=False, inputs=inputs)
    graph = masked_graph(model, mask, simplified=not _aligned(certificate, extra), inputs=inputs)
    if form.write is None:
        save_sparse(path, model, mask, certificate, half=half, extra=extra)
    else:
        metadata = dict(extra or {}) | ({} if certificate is None else {"certificate": dict(certificate)})
        if example is not None:
            example = on_host(example)
            check_outputs(DenseEngine(graph), model, mask, example)
        with replacing(path) as temporary:
            form.write(graph, temporary, metadata | {"left_dense": graph.left_dense()}, example)
    layers = [runs[0] for runs in _by_layer(whole)]
    weights = sum(node.weight.numel() for node in layers)
    return Exported(
        path,
        weights,
        weights - sum(_pruned(node, mask or {}) for node in layers),
        sum(max(map(live, runs)) for runs in _by_layer(graph)),
        sum(whole.channels().values()),
        sum(graph.channels().values()),
        graph.left_dense(),
    )


def _by_layer(graph: Graph) -> list[list[Conv]]:
    """The convolutions, those with one weight together."""
    found: dict[str, list[Conv]] = {}
    for node in graph.convolutions():
        found.setdefault(node.parameter or node.name, []).append(node)
    return list(found.values())


def _pruned(node: Conv, mask: Mapping[str, Tensor]) -> int:
    """How many weights of a layer the mask leaves out; none of one that it does not name."""
    kept = mask.get(node.parameter) if node.parameter is not None else None
    return 0 if kept is None else kept.numel() - int(kept.count_nonzero())


def _aligned(certificate: Mapping[str, Any] | None, extra: Mapping[str, Any] | None) -> bool:
    """Whether the mask's pattern counts channels from the first, so that none may be left out."""
    proof = certificate or (extra or {}).get("certificate") or {}
    return find_granularity(proof.get("asked", {}).get("granularity", WEIGHT.name)).aligned
