"""The second half of reading: norms, sums and rectifiers move into convolutions, channels are counted."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .graph import Call, Conv, Graph, Node, Ref, mapped, refs, untaken


class Affine(nn.Module):
    """A batch norm in evaluation mode: x * scale + shift, channel by channel of axis 1."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> None:
        super().__init__()
        scale = 1 / (variance.double() + eps).sqrt()
        scale = scale if weight is None else weight.double() * scale
        shift = -mean.double() * scale
        self.mean = mean.double()
        self.offset = torch.zeros_like(shift) if bias is None else bias.double()
        self.exact = scale
        self.register_buffer("scale", scale.float())
        self.register_buffer("shift", (shift + self.offset).float())

    def forward(self, x: Tensor) -> Tensor:
        shape = [1, -1] + [1] * (x.dim() - 2)
        return x * self.scale.reshape(shape) + self.shift.reshape(shape)


def fused(
    nodes: list[Node],
    structure: Any,
    inputs: tuple[str, ...],
    shared: Collection[str] = (),
    unknown: Collection[str] = (),
) -> Graph:
    """The graph with norms, sums and rectifiers in the convolutions, and what is known of channels.

    shared: values that may share memory with another. unknown: calls that may change what they are given.
    """
    done: dict[str, Node] = {}
    names: dict[str, str] = {}
    real: set[str] = set()
    changing = {node.name for node in nodes if isinstance(node, Call) and (node.keep or node.name in unknown)}
    memory = set(shared) if changing else set()
    uses = Counter(ref.name for node in nodes for ref in _read_by(node))
    uses.update(ref.name for ref in refs(structure))

    def renamed(tree: Any) -> Any:
        if isinstance(tree, Ref):
            return Ref(names.get(tree.name, tree.name))
        return mapped(renamed, tree)

    def may_wait(conv: Conv) -> bool:
        """Whether the convolution may run after all these: none changes a value in place that it reads."""
        later = list(done)[list(done).index(conv.name) :]
        return conv.input not in memory or changing.isdisjoint(later)

    for node in nodes:
        if isinstance(node, Conv):
            done[node.name] = replace(node, input=names.get(node.input, node.input))
            real.add(node.name)
            continue
        node = replace(node, args=renamed(node.args), kwargs=renamed(node.kwargs))
        again = _repeated(node, real)
        if again is not None and memory.isdisjoint((node.name, again)):
            names[node.name] = again
            uses[again] += uses[node.name] - 1
            continue
        into = _absorbed(node, done, uses, may_wait)
        if into is None:
            done[node.name] = node = _with_channels(node, done)
            if _is_real(node, real):
                real.add(node.name)
        else:
            if node.op is operator.add:  # not before the other value of the sum is there
                done.pop(into.name)
            done[into.name] = into
            names[node.name] = into.name
            uses[into.name] = uses[node.name]
            memory.update([into.name] if node.name in memory else [])
    structure = renamed(structure)
    return Graph(list(done.values()), _outputs(structure), inputs, structure)


def _read_by(node: Node) -> list[Ref]:
    return [Ref(name) for name in node.reads]


def _repeated(node: Call, real: set[str]) -> str | None:
    """The value that a call only gives again: plus 0, which `sum` starts from, or in another order in memory.

    real: values of floating-point numbers, which plus 0 leaves what they are.
    """
    if node.op is operator.add and len(node.args) == 2:
        values = [arg.name for arg in node.args if isinstance(arg, Ref) and arg.name in real]
        zeros = [arg for arg in node.args if isinstance(arg, int | float) and arg == 0]
        return values[0] if values and zeros else None
    order = node.op.keywords.get("memory_format") if isinstance(node.op, partial) else None
    return node.args[0].name if order in (torch.channels_last, torch.channels_last_3d) else None


def _is_real(node: Call, real: set[str]) -> bool:
    """Whether the value is of floating-point numbers for sure."""
    if isinstance(node.op, nn.Module) and any(True for _ in (*node.op.parameters(), *node.op.buffers())):
        return True
    arithmetic = node.op in (operator.add, operator.sub, operator.mul, operator.truediv)
    return node.channels is not None or (arithmetic and not real.isdisjoint(node.reads))


def _absorbed(
    node: Call, done: dict[str, Node], uses: Counter[str], may_wait: Callable[[Conv], bool]
) -> Conv | None:
    """The convolution before the call with what the call does; None where it has to be a step of its own."""

    def open_conv(arg: Any) -> Conv | None:
        found = done.get(arg.name) if isinstance(arg, Ref) else None
        return found if isinstance(found, Conv) and uses[found.name] == 1 and not found.relu else None

    first = open_conv(node.args[0]) if node.args else None
    if isinstance(node.op, Affine) and first and first.residual is None and not first.linear:
        scale = node.op.exact
        weight = first.weight.double() * scale[:, None, None, None]
        bias = (first.bias - node.op.mean) * scale + node.op.offset
        return replace(first, weight=weight.float().contiguous(), bias=bias)
    if node.op is functional.relu and first:
        return replace(first, relu=True)
    if node.op is operator.add and len(node.args) == 2:
        sides = []
        for arg, other in (node.args, node.args[::-1]):
            conv, added = open_conv(arg), done.get(other.name) if isinstance(other, Ref) else None
            if conv is None or added is None or conv.residual is not None or added.name == conv.name:
                continue
            if added.channels == conv.channels and added.axis == conv.axis and may_wait(conv):
                sides.append(replace(conv, residual=added.name))
        # the sum is free in the last write of the convolution that has more to do
        return max(sides, key=lambda conv: (conv.weight.numel(), list(done).index(conv.name)), default=None)
    return None


def _with_channels(node: Call, done: dict[str, Node]) -> Call:
    """The call with its channels, or as one of kind other where they are not known."""
    sources = [done.get(name) for name in node.values]
    known = [source for source in sources if source is not None and source.channels is not None]
    if not sources or len(known) < len(sources) or len({source.axis for source in known}) > 1:
        return replace(node, kind="other")
    axis = known[0].axis
    if node.kind == "window" and (axis != 1 or not _keeps_constants(node)):
        return replace(node, kind="other")
    if node.kind == "join":
        along = node.kwargs.get("dim", node.kwargs.get("axis", node.args[1] if len(node.args) > 1 else 0))
        if along not in ((1, -3) if axis == 1 else (-1,)):
            return replace(node, kind="other")
    return replace(node, channels=sum(source.channels or 0 for source in known), axis=axis)


def _keeps_constants(node: Call) -> bool:
    """Whether a pooling turns a constant channel into the same constant: not where zeros of padding count."""
    if isinstance(node.op, nn.AvgPool2d):
        return node.op.padding in (0, (0, 0)) and node.op.divisor_override is None
    if isinstance(node.op, nn.MaxPool2d | nn.AdaptiveMaxPool2d):
        return not node.op.return_indices
    if isinstance(node.op, nn.Module):
        return True
    if getattr(node.op, "__name__", "") == "avg_pool2d":
        return len(node.args) < 4 and not set(node.kwargs) & {"padding", "divisor_override"}
    return not node.kwargs.get("return_indices", False)


def _outputs(structure: Any) -> dict[str, str]:
    """Name of an output -> its value: keys and positions joined by dots, or `output` for a single one.

    A number follows a name that another output has.
    """
    found: dict[str, str] = {}

    def walk(tree: Any, path: tuple[str, ...]) -> None:
        if isinstance(tree, Ref):
            found[untaken(".".join(path) or "output", found)] = tree.name
        elif isinstance(tree, dict):
            for key, part in tree.items():
                walk(part, (*path, str(key)))
        elif isinstance(tree, tuple | list):
            for index, part in enumerate(tree):
                walk(part, (*path, str(index)))

    walk(structure, ())
    return found
