"""A saved network, for all or some of its tasks, written in one of the formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .engines import masked_graph
from .graph import Graph
from .onnx_file import write_onnx
from .program import write_program
from .source import build_network, for_tasks
from .sparse_file import write_sparse


@dataclass(frozen=True)
class Format:
    """ending of the file; write(content of the saved network, simplified graph, path, half)."""

    ending: str
    write: Callable[[dict, Graph, Path, bool], None]
    halves: bool = False


def _metadata(content: dict) -> dict:
    return {field: content[field] for field in ("name", "network", "certificate", "step")}


FORMATS = {
    "sparse": Format(
        ".safetensors", lambda content, graph, path, half: write_sparse(content, path, half), halves=True
    ),
    "onnx": Format(".onnx", lambda content, graph, path, half: write_onnx(graph, path, _metadata(content))),
    "torch": Format(".pt2", lambda content, graph, path, half: write_program(graph, path)),
}


@dataclass(frozen=True)
class Exported:
    """What was written and what is left: prunable weights of these tasks, kept ones, those that matter."""

    path: Path
    prunable: int
    kept: int
    live: int
    channels_before: int
    channels_after: int


def find_format(name: str, half: bool) -> Format:
    """The row of that name; ValueError with the choices, or for 16 bits where there are none."""
    if name not in FORMATS:
        raise ValueError(f"format '{name}' is not one of {', '.join(FORMATS)}")
    if half and not FORMATS[name].halves:
        halving = [other for other, row in FORMATS.items() if row.halves]
        raise ValueError(f"--half is for format {', '.join(halving)}, not for {name}")
    return FORMATS[name]


def export(
    content: dict, tasks: tuple[str, ...] | None, format_name: str, path: Path, half: bool
) -> Exported:
    """Writes the network of these tasks (None = all) to `path`; its folder is made if missing.

    The sparse format holds the network and loads to it bit for bit; the others hold the simplified graph.
    """
    form = find_format(format_name, half)
    if tasks is not None:
        content = for_tasks(content, tasks)
    network = build_network(content, content["name"])
    graph, whole = masked_graph(network, content["mask"]), masked_graph(network, None, simplified=False)
    path = Path(path)
    if path.suffix != form.ending:
        raise ValueError(f"{path} should end in {form.ending}: format {format_name} is read by that ending")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part_{path.name}")
    try:
        form.write(content, graph, temporary, half)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    weights = [value for value in network.state_dict().values() if value.dim() == 4]
    kept = content["mask"] or {}
    return Exported(
        path,
        sum(value.numel() for value in weights),
        sum(int(mask.sum()) for mask in kept.values()) if kept else sum(value.numel() for value in weights),
        graph.kept(),
        sum(whole.channels().values()),
        sum(graph.channels().values()),
    )
