"""One network, several ways to run it: the same outputs from each.

The engines take any module. What the sparse engine does not know (transposed and grouped convolutions,
attention, recurrent layers, code that cannot be traced) runs in PyTorch within the same graph; `left_dense`
names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..text import not_one_of
from .build import sparse_engine
from .comparing import differences
from .graph import Graph
from .layers import SparseLayer
from .memory import give_back
from .packages import need
from .plain import PlainNet, fresh, given
from .reading import masked_copy, read_network
from .simplify import simplify
from .tuning import tuned


class Engine:
    """A callable with the network's own arguments and results, in evaluation mode; autocast is off inside.

    left_dense: layers whose zeros are multiplied all the same -> what they are.
    """

    def __init__(self, graph: Graph) -> None:
        self.left_dense = graph.left_dense()
        self.inputs = graph.inputs

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Arguments by place or by name. Raises ValueError where they are not those that were traced."""
        inputs = self._in_order(given, named)
        with torch.autocast("cpu", enabled=False), torch.autocast(_device(inputs).type, enabled=False):
            return self.run(*inputs)

    def run(self, *inputs: Any) -> Any:
        raise NotImplementedError

    def _in_order(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        rest = self.inputs[len(given) :]
        if named and set(named) != set(rest):
            said = ", ".join([f"{len(given)} by place", *named] if given else named)
            raise ValueError(
                f"the engine takes {', '.join(self.inputs)}, not {said}: what else the network takes is "
                "traced where `example` holds it"
            )
        if not named:  # whoever computes says what is missing
            return given
        return given + tuple(named[name] for name in rest)


class DenseEngine(Engine):
    """PyTorch's own convolutions on the simplified graph, where the first input is."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.net = PlainNet(graph).eval()

    @torch.no_grad()
    def run(self, *inputs: Any) -> Any:
        plain = pytree.tree_map_only(Tensor, lambda value: _plain(value, value.device), inputs)
        return self.net.to(_device(inputs))(*plain)


class SparseEngine(Engine):
    """The CPU engine for unstructured sparsity, tuned on copies of the first inputs that it sees, for their
    sizes.

    error: as in `wrap`.
    """

    def __init__(self, graph: Graph, error: float = 0.0) -> None:
        super().__init__(graph)
        self.graph: Graph | None = graph  # until it is tuned: dense weights need not stay in memory
        self.error = error
        self.net: PlainNet | None = None
        sparse_engine()  # built now, so that a missing compiler is said before any work

    @torch.no_grad()
    def run(self, *inputs: Any) -> Any:
        host = on_host(inputs)
        if self.graph is not None:
            self.net, self.graph = tuned(self.graph, *host, error=self.error), None
            give_back()
        assert self.net is not None
        device = _device(inputs)
        return pytree.tree_map_only(Tensor, lambda value: value.to(device), self.net(*host))

    def layers(self) -> dict[str, str]:
        """Convolutions and linear layers -> "sparse", "dense", or either with "bf16" behind it.

        Tuning decides at the first call; empty before.
        """
        found = {} if self.net is None else self.net.layers
        return {name: _way(layer) for name, layer in found.items()}


class OnnxEngine(Engine):
    """onnxruntime on the graph's ONNX form."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.graph = graph
        self.session: Any = None  # onnxruntime.InferenceSession, made when the inputs are known
        need("onnx"), need("onnxruntime")  # what lacks is said before any work

    def run(self, *inputs: Any) -> Any:
        from .onnx_file import input_names, make_session, onnx_model

        host = on_host(inputs)
        for name, value in given(self.graph, host).items():
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"engine 'onnx' takes tensors, and {name} is a {type(value).__name__}: give a tensor, or "
                    "choose 'dense' or 'sparse'"
                )
        if self.session is None:
            self.session = make_session(onnx_model(self.graph, example=host).SerializeToString())
            self.graph = replace(self.graph, nodes=[])
        names, device = list(self.graph.outputs), _device(inputs)
        fed = dict(zip(input_names(self.graph), (value.numpy() for value in host), strict=True))
        found = self.session.run(names, fed)
        values = {
            self.graph.outputs[name]: torch.from_numpy(value).to(device)
            for name, value in zip(names, found, strict=True)
        }
        return self.graph.result(values)


def _way(layer: nn.Module) -> str:
    kind = "sparse" if isinstance(layer, SparseLayer) else "dense"
    return f"{kind} bf16" if getattr(layer, "bf16", False) else kind


BF16_ERROR = 1e-2  # of engine sparse-bf16
TOLERANCE = 1e-3  # share of an output's range: rounding is far below, another program far above

ENGINES: dict[str, Callable[[Graph], Engine]] = {
    "dense": DenseEngine,
    "sparse": SparseEngine,
    "sparse-bf16": partial(SparseEngine, error=BF16_ERROR),
    "onnx": OnnxEngine,
}


def masked_graph(
    model: nn.Module, mask: Mapping[str, Tensor] | None, simplified: bool = True, inputs: int | None = None
) -> Graph:
    """The network's graph, weights outside the mask taken as 0; ValueError for a mask of another network."""
    graph = read_network(model, mask=mask, inputs=inputs)
    return simplify(graph) if simplified else graph


def wrap(
    model: nn.Module,
    mask: Mapping[str, Tensor] | None,
    engine: str,
    example: tuple[Any, ...] | None = None,
    error: float = 0.0,
) -> Engine:
    """A callable with the network's own arguments and results: the masked network in evaluation mode.

    engine: dense, sparse, sparse-bf16 (sparse with error=1e-2) or onnx. The weights are those of now: train
        on and wrap again.
    example: arguments of one call, where the network takes optional ones; the outputs for them are compared
        with the network's own.
    error: engine sparse: how far an output may be from that in 32 bits, as a share of its range, on the
        inputs that the engine is tuned on (the example, or the first call); layers may then run in bfloat16
        where that is quicker and the processor has it. In [0, 1); 0 = all in 32 bits.
    ValueError for another engine, naming the package that one needs, or where outputs differ.
    """
    if engine not in ENGINES:
        raise ValueError(not_one_of("engine", engine, ENGINES))
    if not 0 <= error < 1:
        raise ValueError(f"error is a share of an output's range, from 0 to below 1, not {error!r}")
    if error and engine == "sparse-bf16":
        raise ValueError(f"engine 'sparse-bf16' is error={BF16_ERROR} already: error={error} is for 'sparse'")
    if error and engine != "sparse":
        raise ValueError(f"engine '{engine}' computes in 32 bits: error={error} is for 'sparse'")
    graph = masked_graph(model, mask, inputs=None if example is None else len(example))
    made = SparseEngine(graph, error) if error else ENGINES[engine](graph)
    if example is not None:
        error = made.error if isinstance(made, SparseEngine) else 0.0
        check_outputs(made, model, mask, example, max(TOLERANCE, 2 * error))
    return made


def check_outputs(
    engine: Engine,
    model: nn.Module,
    mask: Mapping[str, Tensor] | None,
    example: tuple[Any, ...],
    allowed: float = TOLERANCE,
) -> None:
    """ValueError where an engine's outputs for these arguments are not those of the masked network."""
    found = engine(*fresh(example))
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        expected = masked_copy(model, mask)(*on_host(fresh(example)))
    for index, off in enumerate(differences(found, expected)):
        if not off <= allowed:
            raise ValueError(
                f"output {index} of the traced network is off by {off:.1e} of its range: its code "
                "decides by values that a trace does not see"
            )


def _device(inputs: tuple[Any, ...]) -> torch.device:
    tensors = [value for value in pytree.tree_leaves(inputs) if isinstance(value, Tensor)]
    return tensors[0].device if tensors else torch.device("cpu")


def on_host(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The network's arguments with tensors on the CPU, floating-point values in float32."""
    return pytree.tree_map_only(Tensor, partial(_plain, device=torch.device("cpu")), inputs)


def _plain(value: Tensor, device: torch.device) -> Tensor:
    """Without a gradient, floating-point values in float32."""
    return value.detach().to(device, torch.float32 if value.is_floating_point() else value.dtype)
