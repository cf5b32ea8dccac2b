"""Lossless removal of channels that cannot matter: forward constants, backward liveness, one pass each.

A channel is constant when nothing that varies feeds it; its value moves into the biases that read it. Under
zero padding a constant is no constant at the border, so there all constant channels of a value are merged
into one that is 1. A channel is dead when no weight of a live channel reads it. Exact up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .graph import IMAGE, Conv, Graph, Pool


@dataclass
class Channels:
    """What is known of one value's channels [C]; value float64, 0 where not constant; `one` = carries a 1."""

    constant: Tensor
    value: Tensor
    live: Tensor
    one: bool = False

    @property
    def kept(self) -> Tensor:
        """Indices of the channels that stay, before the carried 1."""
        return self.live.nonzero().flatten()


def _unknown(count: int) -> Channels:
    flags = torch.zeros(count, dtype=torch.bool)
    return Channels(flags, torch.zeros(count, dtype=torch.float64), flags.clone())


def _added(node: Conv, known: dict[str, Channels]) -> Channels | None:
    """What is known of the residual, in the order of the node's outputs; no residual there = constant 0."""
    if node.residual is None:
        return None
    residual = known[node.residual]
    if node.rows is None:
        return residual
    missing, rows = node.rows < 0, node.rows.clamp_min(0)
    return Channels(
        residual.constant[rows] | missing, residual.value[rows].where(~missing, 0.0), residual.live[rows]
    )


def _reads(node: Conv) -> Tensor:
    """[O, I] bool: whether the output reads the input channel."""
    return (node.weight != 0).flatten(2).any(dim=2)


def _constants(node: Conv, read: Tensor, source: Channels, residual: Channels | None) -> Channels:
    foldable = source.constant & ((source.value == 0) | (node.padding == 0))
    constant = ~read[:, ~foldable].any(dim=1)
    value = node.bias.clone()
    if node.padding == 0:
        value += node.weight.double().sum(dim=(2, 3)) @ torch.where(source.constant, source.value, 0.0)
    if residual is not None:
        constant &= residual.constant
        value = value + residual.value
    value = value.clamp_min(0) if node.relu else value
    return Channels(constant, torch.where(constant, value, 0.0), torch.zeros_like(constant))


def _forward(graph: Graph, reads: dict[str, Tensor]) -> dict[str, Channels]:
    known = {IMAGE: _unknown(graph.image_channels)}
    known[IMAGE].live[:] = True
    for node in graph.nodes:
        source = known[node.input]
        if isinstance(node, Pool):
            known[node.name] = Channels(source.constant, source.value, torch.zeros_like(source.constant))
        else:
            known[node.name] = _constants(node, reads[node.name], source, _added(node, known))
    return known


def _backward(graph: Graph, reads: dict[str, Tensor], known: dict[str, Channels]) -> None:
    """Fills `live` and `one`; a value with neither is not needed."""
    for name in graph.outputs.values():
        known[name].live[:] = True
    for node in reversed(graph.nodes):
        own, source = known[node.name], known[node.input]
        if not own.live.any() and not own.one:
            continue
        if isinstance(node, Pool):
            source.live |= own.live
            source.one |= own.one
            continue
        read = reads[node.name][own.live].any(dim=0)
        source.live |= read & ~source.constant
        border = read & source.constant & (source.value != 0)
        # a convolution needs some input, if only for the size of its output
        source.one |= bool(border.any() and node.padding) or not source.live.any()
        if node.residual:
            varies = own.live & ~_added(node, known).constant
            rows = torch.arange(node.channels) if node.rows is None else node.rows
            known[node.residual].live[rows[varies]] = True


def _rebuilt(node: Conv, known: dict[str, Channels]) -> Conv:
    own, source = known[node.name], known[node.input]
    weight, bias = node.weight[own.live], node.bias[own.live]
    constant = torch.where(source.constant, source.value, 0.0)
    if node.padding:
        border = torch.einsum("oikl,i->okl", weight.double(), constant).float()
    else:
        bias = bias + weight.double().sum(dim=(2, 3)) @ constant
        border = weight.new_zeros((len(weight), *weight.shape[2:]))
    weight = weight[:, source.live]
    if source.one:
        weight = torch.cat([weight, border[:, None]], dim=1)
    residual, rows = node.residual, None
    if residual:
        bias = bias + _added(node, known).value[own.live]
        rows = _places(node, own, known[residual])
    if own.one:
        weight = torch.cat([weight, weight.new_zeros((1, *weight.shape[1:]))])
        bias = torch.cat([bias, bias.new_ones(1)])
        rows = None if rows is None else torch.cat([rows, rows.new_full((1,), -1)])
    if residual and bool((rows < 0).all()):
        residual = rows = None
    elif residual and torch.equal(rows, torch.arange(len(known[residual].kept) + known[residual].one)):
        rows = None
    return replace(node, weight=weight.contiguous(), bias=bias, residual=residual, rows=rows)


def _places(node: Conv, own: Channels, residual: Channels) -> Tensor:
    """For each live output the new channel of the residual that it adds, or -1: none, or a constant."""
    place = torch.full((len(residual.live) + 1,), -1)
    place[residual.kept] = torch.arange(len(residual.kept))
    rows = torch.arange(node.channels) if node.rows is None else node.rows
    return place[rows][own.live]


def simplify(graph: Graph) -> Graph:
    """The same outputs from fewer channels; the input graph is left as it is."""
    reads = {node.name: _reads(node) for node in graph.convolutions()}
    known = _forward(graph, reads)
    _backward(graph, reads, known)
    nodes = []
    for node in graph.nodes:
        own = known[node.name]
        count = len(own.kept) + own.one
        if count == 0:
            continue
        nodes.append(replace(node, channels=count) if isinstance(node, Pool) else _rebuilt(node, known))
    return Graph(nodes, dict(graph.outputs), graph.image_channels)
