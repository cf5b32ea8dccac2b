"""A graph as a torch.export program: loads without our code, for any batch and image size if possible."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.nn import functional
from torch.utils import _pytree as pytree

from ..text import as_json, first_line
from .graph import Call, Conv, Graph
from .plain import PlainNet, fresh

EXAMPLE = (2, 65, 97)  # batch, height, width of the traced image: any that differ from each other
SMALLEST = 9  # pixels of an image's side
METADATA = "metadata.json"  # of the extra files of torch.export.load


class OpenPool(nn.Module):
    """What a maximum pooling with ceil_mode computes, without it: its size rule needs the image's size."""

    def __init__(self, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.geometry = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride, padding = self.geometry
        # rows and columns at the end: the windows that ceil_mode adds, where padding + stride <= kernel
        padded = functional.pad(x, (0, stride - 1, 0, stride - 1), value=float("-inf"))
        return functional.max_pool2d(padded, kernel, stride, padding)


def portable(graph: Graph) -> Graph:
    """The graph without what torch.export cannot hold for free image sizes, as far as that is possible."""
    return replace(graph, nodes=[_opened(node) if isinstance(node, Call) else node for node in graph.nodes])


def _opened(node: Call) -> Call:
    pool = node.op
    if not isinstance(pool, nn.MaxPool2d) or not pool.ceil_mode or pool.return_indices:
        return node
    kernel, stride, padding = pool.kernel_size, pool.stride, pool.padding
    if (
        pool.dilation != 1
        or isinstance(kernel, tuple)
        or isinstance(stride, tuple)
        or isinstance(padding, tuple)
    ):
        return node
    return replace(node, op=OpenPool(kernel, stride, padding)) if padding + stride <= kernel else node


def example_of(graph: Graph) -> tuple[Tensor, ...] | None:
    """An image for a network whose only input goes into a convolution; None for any other."""
    if len(graph.inputs) != 1:
        return None
    readers = [node for node in graph.nodes if graph.inputs[0] in node.reads]
    first = next((node for node in readers if isinstance(node, Conv) and not node.linear), None)
    if first is None:
        return None
    batch, height, width = EXAMPLE
    return (torch.zeros(batch, first.weight.shape[1] * first.groups, height, width),)


def exported_program(graph: Graph, example: tuple[Any, ...] | None = None) -> torch.export.ExportedProgram:
    """The program: the network's arguments -> what it returns, in float32 on the CPU.

    example: arguments of one call; None = an image, where the network takes one. Sizes that its code does not
    fix stay free: sides of an image of at least SMALLEST pixels, any batch, which is said where it is fixed.
    ValueError where an example is needed, or where torch.export refuses the network.
    """
    net = PlainNet(portable(graph)).eval()
    inputs = example_of(graph) if example is None else example
    if inputs is None:
        raise ValueError("the network does not take one image: give an example of its arguments")
    larger = _doubled(net, inputs)
    pairs = zip(pytree.tree_leaves(larger), pytree.tree_leaves(inputs), strict=True)
    grown = [new is not old for new, old in pairs]
    attempts: list[tuple[Any, Any]] = [(larger, _automatic), (inputs, None)]
    if larger is not inputs:
        attempts.insert(1, (inputs, _automatic))
    if example is None and all(isinstance(node, Conv) or node.channels for node in graph.nodes):
        attempts.insert(0, (larger, _free))
    error = Exception()
    for taken, free in attempts:
        try:
            sizes = None if free is None else (pytree.tree_map(free, taken),)
            with torch.no_grad():
                program = torch.export.export(net, taken, dynamic_shapes=sizes)
        except Exception as refused:  # noqa: BLE001  # torch.export has no one kind of error
            error = refused
            continue
        fixed = _fixed(program)
        if taken is larger and any(grown[place] for place in fixed):  # to a size that the example has not
            continue
        if fixed:
            said = (
                f"argument {place + 1} with a first axis of {size} alone" for place, size in fixed.items()
            )
            warnings.warn(f"the exported network takes {', '.join(said)}", stacklevel=2)
        return program
    raise ValueError(f"torch.export refuses this network: {first_line(error)}") from error


def _doubled(net: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with a first axis of 2 instead of 1, which torch.export would fix, if the network takes
    them: all that have one, or else those of more axes. The arguments themselves where there are none."""
    for least in (1, 2):

        def twice(value: Tensor, least: int = least) -> Tensor:
            return torch.cat([value, value]) if value.dim() >= least and len(value) == 1 else value

        larger = pytree.tree_map_only(Tensor, twice, inputs)
        pairs = zip(pytree.tree_leaves(larger), pytree.tree_leaves(inputs), strict=True)
        if all(new is old for new, old in pairs):
            break
        try:
            with torch.no_grad():
                net(*fresh(larger))
            return larger
        except Exception:  # noqa: BLE001  # whatever the network's own code says
            continue
    return inputs


def _fixed(program: torch.export.ExportedProgram) -> dict[int, int]:
    """Place of an argument, nested ones counted one by one -> size of its first axis, where it can have that
    alone."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    taken = [values.get(str(name)) for name in program.graph_signature.user_inputs]
    return {
        place: int(value.shape[0])
        for place, value in enumerate(taken)
        if isinstance(value, Tensor) and value.dim() and is_concrete_int(value.shape[0])
    }


def _free(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return None
    sides = {2: torch.export.Dim("height", min=SMALLEST), 3: torch.export.Dim("width", min=SMALLEST)}
    return {0: torch.export.Dim.DYNAMIC} | sides


def _automatic(value: Any) -> Any:
    return [torch.export.Dim.AUTO] * value.dim() if isinstance(value, Tensor) else None


def write_program(
    graph: Graph, path: Path, metadata: dict[str, Any] | None = None, example: tuple[Any, ...] | None = None
) -> None:
    """The program as a .pt2 file for torch.export.load; metadata: JSON values, kept in it as METADATA.

    Raises ValueError as `exported_program`, and for outputs in a container that no file can name.
    """
    program = exported_program(graph, example)
    _check_containers(program.call_spec.out_spec)
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: as_json(metadata or {})})


def _check_containers(returned: Any) -> None:
    """ValueError, naming its class, where the network returns a named tuple that PyTorch was not told of.

    returned: the TreeSpec of what it returns.
    """
    try:
        pytree.treespec_dumps(returned)
    except NotImplementedError as error:
        tree = pytree.tree_unflatten([None] * returned.num_leaves, returned)
        names = [type(part).__name__ for part in _containers(tree) if hasattr(part, "_fields")]
        raise ValueError(
            f"the network returns a {', '.join(names)}, which a .pt2 file cannot name: return a dict or a "
            "tuple, or choose format 'onnx' or 'sparse'"
        ) from error


def _containers(tree: Any) -> Iterator[Any]:
    """The tree and all containers in it."""
    if isinstance(tree, dict | tuple | list):
        yield tree
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _containers(part)
