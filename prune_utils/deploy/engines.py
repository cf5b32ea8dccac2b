"""One network, several ways to run it: the same outputs from each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.multitask import MultiTaskNet

from .build import sparse_engine
from .graph import Graph, read_network
from .plain import PlainNet
from .simplify import simplify
from .tuning import tuned

Engine = Callable[[Tensor], dict[str, Tensor]]


class DenseEngine:
    """PyTorch's own convolutions on the simplified graph, where the image is."""

    def __init__(self, graph: Graph):
        self.net = PlainNet(graph).eval()

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        return self.net.to(image.device)(image)


class SparseEngine:
    """The CPU engine for unstructured sparsity, tuned on the first image that it sees, for that size."""

    def __init__(self, graph: Graph):
        self.graph: Graph | None = graph  # until it is tuned: dense weights need not stay in memory
        self.net: PlainNet | None = None
        sparse_engine()  # built now, so that a missing compiler is said before any work

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        host = image.to("cpu", torch.float32)
        if self.net is None:
            self.net, self.graph = tuned(self.graph, host), None
        return {task: value.to(image.device) for task, value in self.net(host).items()}


class OnnxEngine:
    """onnxruntime on the graph's ONNX form."""

    def __init__(self, graph: Graph):
        from .onnx_file import make_session, onnx_model

        self.session = make_session(onnx_model(graph).SerializeToString())
        self.tasks = list(graph.outputs)

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        found = self.session.run(self.tasks, {"image": image.to("cpu", torch.float32).numpy()})
        pairs = zip(self.tasks, found, strict=True)
        return {task: torch.from_numpy(value).to(image.device) for task, value in pairs}


ENGINES: dict[str, Callable[[Graph], Engine]] = {
    "dense": DenseEngine,
    "sparse": SparseEngine,
    "onnx": OnnxEngine,
}


def masked_graph(model: MultiTaskNet, mask: dict[str, Tensor] | None, simplified: bool = True) -> Graph:
    """The network's graph, weights outside the mask taken as 0; ValueError for a mask of another network."""
    state = model.state_dict()
    if mask is not None:
        unknown = [name for name in mask if name not in state]
        if unknown:
            raise ValueError(f"the mask names '{unknown[0]}', which is no tensor of this network")
        state |= {name: state[name] * kept.to(state[name]) for name, kept in mask.items()}
    with torch.device("meta"):
        copy = MultiTaskNet(**model.description)
    copy.load_state_dict({name: value.detach().cpu() for name, value in state.items()}, assign=True)
    graph = read_network(copy.eval())
    return simplify(graph) if simplified else graph


def wrap(model: MultiTaskNet, mask: dict[str, Tensor] | None, engine: str) -> Engine:
    """A callable image [N, 3, H, W] -> {task: [N, channels, h, w]}: the masked network in evaluation mode.

    engine: dense, sparse or onnx. The weights are those of now: train on and wrap again.
    ValueError for another engine, or naming the package that one needs.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine '{engine}' is not one of {', '.join(ENGINES)}")
    return ENGINES[engine](masked_graph(model, mask))
