"""Sparse or dense, 32 or 16 bits: a short measurement on a real input decides how each layer runs.

The layers are tried in order, each on the output of the exact one chosen before it, so the cost of changing
the memory layout between dense and sparse layers is part of what is measured. The smallest of a few times
counts: other programs on the machine can only add to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .build import sparse_engine
from .comparing import worst_difference
from .graph import Conv, Graph
from .layers import TILINGS, TILINGS16, DenseLayer, SparseLayer, bf16_runs
from .plain import Layer, PlainNet, fresh, given, run_step, sources, step_of

REPEATS = 5
HOPELESS = 2.0  # a first run this many times slower than the best so far is not repeated
NEVER_DENSE = 0.01  # below this density a dense convolution is not worth the measuring
LIKELY = (
    1.5  # all dense is tried as a whole where its layers took at most this many times the chosen ones' time
)


@dataclass
class Timed:
    """The quickest of some ways to run a layer."""

    layer: nn.Module
    seconds: float


@dataclass
class Choice:
    """How a layer can run.

    exact: in 32 bits. half: quicker in 16 bits, off by `off` (root mean square, as a share of the output's),
    or None. dense: seconds of the best dense way, infinite where that was not tried.
    """

    exact: Timed
    half: Timed | None
    off: float
    dense: float

    @property
    def spared(self) -> float:
        """Seconds that 16 bits save."""
        return 0.0 if self.half is None else self.exact.seconds - self.half.seconds


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


Make = Callable[[Conv], nn.Module]


def _sparse(node: Conv, half: bool) -> list[Make]:
    if sparse_engine() is None or node.groups > 1 or (half and not bf16_runs()):
        return []
    tilings = TILINGS16 if half else TILINGS
    return [partial(SparseLayer, tiling=tiling, bf16=half) for tiling in tilings]


def _dense(node: Conv, half: bool) -> list[Make]:
    if sparse_engine() is not None and node.groups == 1 and _density(node) < NEVER_DENSE:
        return []
    return [partial(DenseLayer, bf16=True)] if half else [DenseLayer, Layer]


def _quickest(
    makers: list[Make], node: Conv, call: Callable[[nn.Module], object], limit: float
) -> Timed | None:
    """The quickest of these layers; measured roughly where it takes more than `limit` seconds."""
    best: Timed | None = None
    for make in makers:
        layer = make(node)
        seconds = _shortest(partial(call, layer), min(limit, best.seconds if best else limit))
        if best is None or seconds < best.seconds:
            best = Timed(layer, seconds)
    return best


def choose_layer(node: Conv, image: Tensor, residual: Tensor | None, half: bool = False) -> Choice:
    """The quickest ways to run one convolution on these inputs. half: also look for one in 16 bits."""

    def call(layer: nn.Module) -> Tensor:
        return layer(image, residual)

    sparse = _quickest(_sparse(node, False), node, call, float("inf"))
    dense = _quickest(_dense(node, False), node, call, sparse.seconds if sparse else float("inf"))
    exact = min((way for way in (sparse, dense) if way), key=lambda way: way.seconds)
    rough = (
        _quickest([*_sparse(node, True), *_dense(node, True)], node, call, exact.seconds) if half else None
    )
    if rough is None or rough.seconds >= exact.seconds:
        return Choice(exact, None, 0.0, dense.seconds if dense else float("inf"))
    expected, found = call(exact.layer), call(rough.layer)
    off = float((found - expected).norm() / expected.norm().clamp_min(1e-30))
    return Choice(exact, rough, off, dense.seconds if dense else float("inf"))


@torch.no_grad()
def choose_layers(graph: Graph, *inputs: Any, half: bool = False) -> dict[str, Choice]:
    """Convolution name -> how it can run, for inputs like these."""
    values, last = given(graph, fresh(inputs)), graph.last_use()
    chosen: dict[str, Choice] = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Conv):
            residual = None if node.residual is None else values[node.residual]
            chosen[node.name] = choose_layer(node, values[node.input], residual, half)
            step = chosen[node.name].exact.layer
        else:
            step = step_of(node, Layer)
        values[node.name] = run_step(step, sources(node), values)
        for name in [name for name, at in last.items() if at == index]:
            del values[name]
    return chosen


def _net(graph: Graph, choices: dict[str, Choice], halves: set[str]) -> PlainNet:
    def layer(node: Conv) -> nn.Module:
        choice = choices[node.name]
        return choice.half.layer if choice.half and node.name in halves else choice.exact.layer

    return PlainNet(graph, layer)


def within(graph: Graph, choices: dict[str, Choice], error: float, inputs: tuple[Any, ...]) -> set[str]:
    """The layers that run in 16 bits: as many as keep every output within `error` of its range.

    Those that spare most time for their share of the squared error come first; how many is bisected.
    """
    worth = {name: of.spared / max(of.off, 1e-9) ** 2 for name, of in choices.items() if of.half}
    order = sorted(worth, key=lambda name: -worth[name])
    expected = _net(graph, choices, set())(*fresh(inputs))
    good, bad = 0, len(order) + 1
    count = len(order)
    while bad - good > 1:
        found = _net(graph, choices, set(order[:count]))(*fresh(inputs))
        if worst_difference(found, expected) <= error:
            good = count
        else:
            bad = count
        count = (good + bad) // 2
    return set(order[:good])


@torch.no_grad()
def tuned(graph: Graph, *inputs: Any, error: float = 0.0) -> PlainNet:
    """The network with its quickest layers; all dense where that is quicker as a whole. Runs it on copies.

    error: largest difference from 32 bits that an output may have on these inputs, as a share of its range;
    0 = nothing runs in 16 bits.
    """
    choices = choose_layers(graph, *inputs, half=error > 0)
    halves = within(graph, choices, error, inputs) if error > 0 else set()
    mixed = _net(graph, choices, halves)
    chosen = sum(of.exact.seconds - (of.spared if name in halves else 0.0) for name, of in choices.items())
    if sum(of.dense for of in choices.values()) > LIKELY * chosen:
        return mixed
    dense = PlainNet(graph, DenseLayer)
    best = _shortest(lambda: mixed(*fresh(inputs)), float("inf"))
    return dense if _shortest(lambda: dense(*fresh(inputs)), best) < best else mixed
