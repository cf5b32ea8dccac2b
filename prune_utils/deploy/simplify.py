"""Lossless removal of channels that cannot matter: forward constants, backward liveness, one pass each.

A channel is constant when nothing that varies feeds it; its value moves into the biases that read it. Under
zero padding a constant is no constant at the border, so there all constant channels of a value are merged
into one that is 1. A channel is dead when no weight of a live channel reads it. What reads a value in a way
that is not known gets all its channels. Exact up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from .graph import Call, Conv, Graph, Node, Ref

T = TypeVar("T")
MERGED = -1  # in a layout: the channel that carries a constant


@dataclass
class Channels:
    """What is known of one value's channels [C]; value float64, 0 where not constant; `one` = carries a 1.

    fixed: all channels stay, none is added. unit: what the 1 of a convolution is here; as 0 it carries no
    constant. layout: the original channels that are there after the removal, MERGED among them with its
    constant in `amount`.
    """

    constant: Tensor
    value: Tensor
    live: Tensor
    fixed: bool = False
    one: bool = False
    unit: float = 1.0
    layout: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    amount: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))


def _unknown(count: int) -> Channels:
    """Of a value that no node with known channels makes: everything varies and stays."""
    flags, every = torch.zeros(count, dtype=torch.bool), torch.arange(count)
    zeros = torch.zeros(count, dtype=torch.float64)
    return Channels(flags, zeros, ~flags, fixed=True, layout=every, amount=zeros)


class Simplifier:
    """One graph on its way to fewer channels."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.axes, self.counts = graph.axes(), graph.channels()
        self.sizes = _sizes(graph)
        self.read = {node.name: (node.weight != 0).flatten(2).any(dim=2) for node in graph.convolutions()}
        self.known: dict[str, Channels] = {}
        self.fixed: set[str] = set()
        self.needed: set[str] = set()

    def run(self) -> Graph:
        self._find_fixed()
        for node in self.graph.nodes:
            if node.channels is not None:
                self.known[node.name] = self._constants(node)
        self._find_live()
        nodes = [self._rebuilt(node) for node in self.graph.nodes if node.name in self.needed]
        return replace(self.graph, nodes=nodes)

    def _plain(self, node: Conv) -> bool:
        """Whether the convolution reads channels that are known one by one.

        Of a join along rows, in a network of images without a batch, they are not as many as was thought.
        """
        known = self.axes.get(node.input) == node.axis
        return node.groups == 1 and known and self.counts[node.input] == node.weight.shape[1]

    def _source(self, node: Conv) -> Channels:
        return self.known[node.input] if self._plain(node) else _unknown(node.weight.shape[1])

    def _find_fixed(self) -> None:
        """Values whose channels must stay as they are: outputs, and what is read in an unknown way."""
        self.fixed.update(self.graph.outputs.values())
        for node in reversed(self.graph.nodes):
            if isinstance(node, Conv):
                if not self._plain(node):
                    self.fixed.add(node.input)
                if node.groups > 1:
                    self.fixed.add(node.name)
                continue
            passed = node.values
            self.fixed.update(name for name in node.reads if name not in passed or node.name in self.fixed)

    def _added(self, node: Conv) -> Channels | None:
        """What is known of the residual, in the order of the outputs; no residual there = constant 0."""
        if node.residual is None:
            return None
        residual = self.known[node.residual]
        if node.rows is None:
            return residual
        missing, rows = node.rows < 0, node.rows.clamp_min(0)
        value = residual.value[rows].where(~missing, 0.0)
        return Channels(residual.constant[rows] | missing, value, residual.live[rows])

    def _constants(self, node: Node) -> Channels:
        unit = 1.0
        if isinstance(node, Conv):
            constant, value = self._convolved(node)
        else:
            sources = [self.known[name] for name in node.values]
            constant = torch.cat([source.constant for source in sources])
            value = torch.cat([source.value for source in sources])
            unit = next((source.unit for source in sources if not source.fixed), unit)
            if node.kind == "each":
                value = _applied(node, value)
                unit = float(_applied(node, torch.tensor(unit, dtype=torch.float64)))
        if node.name in self.fixed or unit == 0:
            constant = torch.zeros_like(constant)
        return Channels(
            constant,
            value.where(constant, 0.0),
            torch.zeros_like(constant),
            fixed=node.name in self.fixed,
            unit=unit,
        )

    def _convolved(self, node: Conv) -> tuple[Tensor, Tensor]:
        """(constant, value) of a convolution's outputs."""
        value = node.bias.clone()
        if node.groups > 1:
            return torch.zeros(node.channels, dtype=torch.bool), value
        source, residual = self._source(node), self._added(node)
        foldable = source.constant & ((source.value == 0) | (not any(node.padding)))
        constant = ~self.read[node.name][:, ~foldable].any(dim=1)
        if not any(node.padding):
            value += node.weight.double().sum(dim=(2, 3)) @ source.value
        if residual is not None:
            constant &= residual.constant
            value = value + residual.value
        return constant, value.clamp_min(0) if node.relu else value

    def _need(self, name: str, live: Tensor | None = None, one: bool = False) -> None:
        self.needed.add(name)
        if name not in self.known:
            return
        value = self.known[name]
        if value.fixed or live is None:
            value.live[:] = True
        else:
            value.live |= live
            value.one |= one

    def _may_widen(self, node: Conv) -> bool:
        """Whether the sum with its residual may be larger than what the convolution itself gives."""
        return node.residual is not None and self.sizes[node.residual] != _own_size(node, self.sizes)

    def _find_live(self) -> None:
        """Fills `live`, `one` and what is needed at all."""
        for name in self.graph.outputs.values():
            self._need(name)
        for node in reversed(self.graph.nodes):
            if isinstance(node, Call) and node.keep:
                self.needed.add(node.name)
            if node.name not in self.needed:
                continue
            if isinstance(node, Conv):
                self._need_of_conv(node)
            else:
                self._need_of_call(node)

    def _need_of_conv(self, node: Conv) -> None:
        own, source = self.known[node.name], self._source(node)
        if self._plain(node):
            read = self.read[node.name][own.live].any(dim=0)
            live = read & ~source.constant
            border = read & source.constant & (source.value != 0)
            # a convolution needs some input, if only for the size of its output
            empty = not (source.live | live).any()
            self._need(node.input, live, bool(border.any() and any(node.padding)) or empty)
        else:
            self._need(node.input)
        if node.residual is not None:
            varies = own.live & ~_some(self._added(node)).constant
            rows = torch.arange(node.channels) if node.rows is None else node.rows
            wanted = torch.zeros_like(self.known[node.residual].live)
            wanted[rows[varies]] = True
            if wanted.any() or self._may_widen(node):
                self._need(node.residual, wanted, one=not wanted.any())

    def _need_of_call(self, node: Call) -> None:
        passed = node.values
        for name in node.reads:
            if name not in passed:
                self._need(name)
        if not passed:
            return
        own, start, one = self.known[node.name], 0, self.known[node.name].one
        for name in passed:
            source = self.known[name]
            live = own.live[start : start + len(source.live)]
            start += len(source.live)
            carries = one and not source.fixed
            if live.any() or carries:
                self._need(name, live, carries)
                one = one and not carries
        if one:  # every value is fixed: any of them tells the size of the output
            self._need(passed[0])

    def _rebuilt(self, node: Node) -> Node:
        if isinstance(node, Conv):
            return self._rebuilt_conv(node)
        if node.channels is None:
            return node
        own, start, kept = self.known[node.name], 0, []
        for name in node.values:
            source = self.known[name]
            if name in self.needed:
                moved = torch.where(source.layout == MERGED, MERGED, source.layout + start)
                own.layout = torch.cat([own.layout, moved])
                own.amount = torch.cat([own.amount, source.amount])
                kept.append(Ref(name))
            start += len(source.live)
        if node.kind == "each":
            own.amount = _applied(node, own.amount)
        args = (kept, *node.args[1:]) if node.kind == "join" else node.args
        return replace(node, args=args, channels=len(own.layout))

    def _rebuilt_conv(self, node: Conv) -> Conv:
        own, source = self.known[node.name], self._source(node)
        own.layout, own.amount = own.live.nonzero().flatten(), torch.zeros(int(own.live.sum())).double()
        weight, bias = node.weight[own.live], node.bias[own.live]
        if self._plain(node):
            weight, bias = _read_from(source, weight, bias, any(node.padding))
        residual, rows = node.residual, None
        if residual is not None:
            bias = bias + _some(self._added(node)).value[own.live]
            rows = self._places(node, own)
        if own.one:
            weight = torch.cat([weight, weight.new_zeros((1, *weight.shape[1:]))])
            bias = torch.cat([bias, bias.new_ones(1)])
            rows = None if rows is None else torch.cat([rows, rows.new_full((1,), -1)])
            own.layout = torch.cat([own.layout, own.layout.new_full((1,), MERGED)])
            own.amount = torch.cat([own.amount, own.amount.new_ones(1)])
        if rows is not None and residual is not None:
            if bool((rows < 0).all()):
                residual, rows = (residual, rows) if self._may_widen(node) else (None, None)
            elif torch.equal(rows, torch.arange(len(self.known[residual].layout))):
                rows = None
        return replace(node, weight=weight.contiguous(), bias=bias, residual=residual, rows=rows)

    def _places(self, node: Conv, own: Channels) -> Tensor:
        """For each live output the new channel of the residual that it adds, or -1: none, or a constant."""
        residual = self.known[_some(node.residual)]
        place = torch.full((len(residual.live) + 1,), -1)
        there = residual.layout != MERGED
        place[residual.layout[there]] = torch.arange(len(residual.layout))[there]
        place[:-1][residual.constant] = -1  # its value is in the bias
        rows = torch.arange(node.channels) if node.rows is None else node.rows
        return place[rows][own.live]


def _own_size(node: Conv, sizes: Mapping[str, object]) -> object:
    """What stands for the size of a convolution's output without its residual, given that of its input."""
    sides = tuple(
        (step, 2 * pad - gap * (taps - 1))
        for step, pad, gap, taps in zip(
            node.stride, node.padding, node.dilation, node.weight.shape[2:], strict=True
        )
    )
    source = sizes[node.input]
    return source if node.linear or set(sides) == {(1, 0)} else (source, sides)


def _sizes(graph: Graph) -> dict[str, object]:
    """Value name -> what stands for its size along all other axes than the channels': equal = the same."""
    sizes: dict[str, object] = {name: name for name in graph.inputs}
    for node in graph.nodes:
        if isinstance(node, Conv):
            own = _own_size(node, sizes)
            same = node.residual is None or sizes[node.residual] == own
            sizes[node.name] = own if same else node.name
        else:
            kept = node.kind in ("each", "join")
            sizes[node.name] = sizes[node.values[0]] if kept else node.name
    return sizes


def _read_from(source: Channels, weight: Tensor, bias: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    """Weight and bias of outputs that read what is left of their input, constants folded in."""
    border = torch.einsum("oikl,i->okl", weight.double(), source.value)
    if not padded:
        bias = bias + border.sum(dim=(1, 2))
        border = torch.zeros_like(border)
    left = weight.new_zeros((len(weight), len(source.layout), *weight.shape[2:]))
    reads = source.layout != MERGED
    reads[reads.clone()] = ~source.constant[source.layout[reads]]
    left[:, reads] = weight[:, source.layout[reads]]
    merged = ((source.layout == MERGED) & (source.amount != 0)).nonzero().flatten()
    if len(merged):
        left[:, merged[0]] = (border / source.amount[merged[0]]).float()
    return left, bias


def _applied(node: Call, values: Tensor) -> Tensor:
    """The function of an `each` node on single numbers."""
    return node.op(values.clone(), *node.args[1:], **node.kwargs)


def _some(value: T | None) -> T:
    assert value is not None
    return value


def simplify(graph: Graph) -> Graph:
    """The same outputs from fewer channels; the input graph is left as it is."""
    return Simplifier(graph).run()
