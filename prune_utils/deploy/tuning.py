"""Sparse or dense, layer by layer: a short measurement on a real input decides how each convolution runs.

The layers are tried in order, each on the output of the one chosen before it, so the cost of changing the
memory layout between dense and sparse layers is part of what is measured. The smallest of a few times counts:
other programs on the machine can only add to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .build import sparse_engine
from .graph import Conv, Graph
from .layers import TILINGS, DenseLayer, SparseLayer
from .plain import Layer, PlainNet, given, run_step, sources, step_of

REPEATS = 5
HOPELESS = 2.0  # a first run this many times slower than the best so far is not repeated
NEVER_DENSE = 0.01  # below this density a dense convolution is not worth the measuring


def _density(node: Conv) -> float:
    return float(torch.count_nonzero(node.weight)) / node.weight.numel()


def _shortest(call: Callable[[], object], best: float) -> float:
    """Seconds of the fastest of some runs, given up where it cannot beat `best`."""
    call()
    times: list[float] = []
    while len(times) < REPEATS and not (times and times[0] > HOPELESS * best):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _candidates(node: Conv) -> list[Callable[[Conv], nn.Module]]:
    """Makers of a layer, the likeliest first."""
    dense: list[Callable[[Conv], nn.Module]] = [DenseLayer, Layer]
    if sparse_engine() is None or node.groups > 1:
        return dense
    sparse: list[Callable[[Conv], nn.Module]] = [partial(SparseLayer, tiling=tiling) for tiling in TILINGS]
    return sparse if _density(node) < NEVER_DENSE else [*sparse, *dense]


def fastest_layer(node: Conv, image: Tensor, residual: Tensor | None) -> nn.Module:
    """The quickest way to run one convolution on these inputs."""
    best, chosen = float("inf"), None
    for make in _candidates(node):
        layer = make(node)
        seconds = _shortest(partial(layer, image, residual), best)
        if chosen is None or seconds < best:
            best, chosen = seconds, layer
    assert chosen is not None
    return chosen


@torch.inference_mode()
def choose_layers(graph: Graph, *inputs: Any) -> dict[str, nn.Module]:
    """Convolution name -> its layer, for inputs like these."""
    values, last = given(graph, inputs), graph.last_use()
    chosen: dict[str, nn.Module] = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Conv):
            residual = None if node.residual is None else values[node.residual]
            step = chosen[node.name] = fastest_layer(node, values[node.input], residual)
        else:
            step = step_of(node, Layer)
        values[node.name] = run_step(step, sources(node), values)
        for name in [name for name, at in last.items() if at == index]:
            del values[name]
    return chosen


@torch.inference_mode()
def tuned(graph: Graph, *inputs: Any) -> PlainNet:
    """The network with its quickest layers; all dense where that is quicker as a whole."""
    layers = choose_layers(graph, *inputs)
    mixed, dense = PlainNet(graph, lambda node: layers[node.name]), PlainNet(graph, DenseLayer)
    best = _shortest(lambda: mixed(*inputs), float("inf"))
    return dense if _shortest(lambda: dense(*inputs), best) < best else mixed
