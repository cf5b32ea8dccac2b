"""The ways to run a network that the benchmark compares, each made ready to run on one image.

The dense ones run the network as it was saved, pruned weights as zeros; only "sparse engine" drops anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..text import not_one_of
from .engines import BF16_ERROR
from .packages import need
from .reading import read_network
from .simplify import simplify
from .tuning import tuned

Run = Callable[[], Any]  # what the network returns


class Runtime(NamedTuple):
    """make(network, image, threads) -> a run. kind: fp32 or bf16, dense or ours."""

    label: str
    kind: str
    make: Callable[[nn.Module, Tensor, int], Run]
    package: str | None = None

    @property
    def word(self) -> str:
        """The label as a word of a command line: sparse-engine, onnxruntime, ..."""
        return self.label.lower().replace(" ", "-")

    @property
    def skips(self) -> bool:
        """Whether it skips single pruned weights; the others multiply all zeros that are there."""
        return self.kind == "ours"

    @property
    def missing(self) -> list[str]:
        """Packages that it needs and that are not installed."""
        needed = ("onnx", self.package) if self.package else ()
        return [package for package in needed if find_spec(package) is None]


def _torch(network: nn.Module, image: Tensor, layout: torch.memory_format, kind: torch.dtype) -> Run:
    network = network.to(kind).to(memory_format=layout)
    image = image.to(kind).contiguous(memory_format=layout)
    return lambda: network(image)


def _compiled(network: nn.Module, image: Tensor, kind: torch.dtype) -> Run:
    import torch._inductor.config as inductor

    inductor.freezing = True
    layout = torch.channels_last
    network = network.to(kind).to(memory_format=layout)
    image = image.to(kind).contiguous(memory_format=layout)
    compiled = torch.compile(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(image)
    return lambda: compiled(image)


def _onnxruntime(network: nn.Module, image: Tensor, threads: int) -> Run:
    from .onnx_file import input_names, make_session, onnx_model

    graph = read_network(network)
    session = make_session(onnx_model(graph, example=(image,)).SerializeToString(), threads)
    inputs, names = {input_names(graph)[0]: image.numpy()}, list(graph.outputs)

    def run() -> Any:
        found = map(torch.from_numpy, session.run(names, inputs))
        return graph.result(dict(zip(graph.outputs.values(), found, strict=True)))

    return run


def _openvino(network: nn.Module, image: Tensor, threads: int, precision: str) -> Run:
    from .onnx_file import input_names, onnx_model

    core, graph = need("openvino").Core(), read_network(network)
    (entry,) = input_names(graph)
    model = core.read_model(onnx_model(graph, example=(image,)).SerializeToString())
    model.reshape({entry: list(image.shape)})
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    array = image.numpy()

    def run() -> Any:
        request.infer({entry: array}, share_inputs=True)
        values = {
            value: torch.from_numpy(request.get_tensor(name).data.copy())
            for name, value in graph.outputs.items()
        }
        return graph.result(values)

    return run


def _ours(network: nn.Module, image: Tensor, error: float) -> Run:
    net = tuned(simplify(read_network(network)), image, error=error)
    return lambda: net(image)


FP32, BF16, CONTIGUOUS, LAST = torch.float32, torch.bfloat16, torch.contiguous_format, torch.channels_last
OURS = "sparse engine"
OURS_BF16 = "sparse engine bf16"
REFERENCE = "PyTorch"
RUNTIMES = (
    Runtime(REFERENCE, "fp32", lambda net, image, _: _torch(net, image, CONTIGUOUS, FP32)),
    Runtime("PyTorch channels last", "fp32", lambda net, image, _: _torch(net, image, LAST, FP32)),
    Runtime("PyTorch compiled", "fp32", lambda net, image, _: _compiled(net, image, FP32)),
    Runtime("onnxruntime", "fp32", _onnxruntime, "onnxruntime"),
    Runtime("OpenVINO", "fp32", lambda net, image, n: _openvino(net, image, n, "f32"), "openvino"),
    Runtime("PyTorch bf16", "bf16", lambda net, image, _: _torch(net, image, LAST, BF16)),
    Runtime("PyTorch compiled bf16", "bf16", lambda net, image, _: _compiled(net, image, BF16)),
    Runtime("OpenVINO bf16", "bf16", lambda net, image, n: _openvino(net, image, n, "bf16"), "openvino"),
    Runtime(OURS, "ours", lambda net, image, _: _ours(net, image, 0.0)),
    Runtime(OURS_BF16, "ours", lambda net, image, _: _ours(net, image, BF16_ERROR)),
)


def find_runtime(name: str) -> Runtime:
    """The row of that label, or of the label as a word; ValueError with the choices."""
    for runtime in RUNTIMES:
        if name in (runtime.label, runtime.word):
            return runtime
    raise ValueError(not_one_of("runtime", name, [row.word for row in RUNTIMES]))
