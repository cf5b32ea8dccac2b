"""Sparse or dense, layer by layer: a short measurement on a real input decides how each convolution runs.

The layers are tried in order, each on the output of the one chosen before it, so the cost of changing the
memory layout between dense and sparse layers is part of what is measured. The smallest of a few times counts:
other programs on the machine can only add to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .build import sparse_engine
from .graph import IMAGE, Conv, Graph, Pool
from .layers import TILINGS, DenseLayer, SparseLayer
from .plain import Layer, PlainNet

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
    sparse = [lambda node, tiling=tiling: SparseLayer(node, tiling) for tiling in TILINGS]
    if sparse_engine() is None:
        return [DenseLayer, Layer]
    return sparse if _density(node) < NEVER_DENSE else [*sparse, DenseLayer, Layer]


def fastest_layer(node: Conv, image: Tensor, residual: Tensor | None) -> nn.Module:
    """The quickest way to run one convolution on these inputs."""
    best, chosen = float("inf"), None
    for make in _candidates(node):
        layer = make(node)
        seconds = _shortest(lambda layer=layer: layer(image, residual), best)
        if seconds < best:
            best, chosen = seconds, layer
    return chosen


@torch.inference_mode()
def choose_layers(graph: Graph, image: Tensor) -> dict[str, nn.Module]:
    """Convolution name -> its layer, for images [N, C, H, W] like this one."""
    values, last, chosen = {IMAGE: image}, graph.last_use(), {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Pool):
            window = node.kernel, node.stride, node.padding
            values[node.name] = PlainNet.pool(values[node.input], *window)
        else:
            inputs = values[node.input], values[node.residual] if node.residual else None
            chosen[node.name] = fastest_layer(node, *inputs)
            values[node.name] = chosen[node.name](*inputs)
        for name in [name for name, at in last.items() if at == index]:
            del values[name]
    return chosen


@torch.inference_mode()
def tuned(graph: Graph, image: Tensor) -> PlainNet:
    """The network with its quickest layers; all dense where that is quicker as a whole."""
    layers = choose_layers(graph, image)
    mixed, dense = PlainNet(graph, lambda node: layers[node.name]), PlainNet(graph, DenseLayer)
    best = _shortest(lambda: mixed(image), float("inf"))
    return dense if _shortest(lambda: dense(image), best) < best else mixed
