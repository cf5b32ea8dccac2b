"""The ways to run a network that the benchmark compares, each made ready to run on one image.

The dense ones run the network as it was saved, pruned weights as zeros; only "sparse engine" drops anything.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from models.multitask import MultiTaskNet

from .graph import read_network
from .packages import need
from .simplify import simplify
from .tuning import tuned

Run = Callable[[], dict[str, Tensor]]


class Runtime(NamedTuple):
    """make(network, image, threads) -> a run. kind: fp32 or bf16, dense or ours."""

    label: str
    kind: str
    make: Callable[[MultiTaskNet, Tensor, int], Run]
    package: str | None = None


def _torch(network: MultiTaskNet, image: Tensor, layout: torch.memory_format, kind: torch.dtype) -> Run:
    network = network.to(kind).to(memory_format=layout)
    image = image.to(kind).contiguous(memory_format=layout)
    return lambda: network(image)


def _compiled(network: MultiTaskNet, image: Tensor, kind: torch.dtype) -> Run:
    import torch._inductor.config as inductor

    inductor.freezing = True
    layout = torch.channels_last
    network, image = (
        network.to(kind).to(memory_format=layout),
        image.to(kind).contiguous(memory_format=layout),
    )
    compiled = torch.compile(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled(image)
    return lambda: compiled(image)


def _onnxruntime(network: MultiTaskNet, image: Tensor, threads: int) -> Run:
    from .onnx_file import make_session, onnx_model

    graph = read_network(network)
    session = make_session(onnx_model(graph).SerializeToString(), threads)
    inputs, tasks = {"image": image.numpy()}, list(graph.outputs)

    def run() -> dict[str, Tensor]:
        found = session.run(tasks, inputs)
        return {task: torch.from_numpy(value) for task, value in zip(tasks, found, strict=True)}

    return run


def _openvino(network: MultiTaskNet, image: Tensor, threads: int, precision: str) -> Run:
    from .onnx_file import onnx_model

    core = need("openvino").Core()
    model = core.read_model(onnx_model(read_network(network)).SerializeToString())
    model.reshape({"image": list(image.shape)})
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": str(threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    array = image.numpy()

    def run() -> dict[str, Tensor]:
        request.infer({"image": array}, share_inputs=True)
        return {task: torch.from_numpy(request.get_tensor(task).data.copy()) for task in network.tasks}

    return run


def _ours(network: MultiTaskNet, image: Tensor, threads: int) -> Run:
    net = tuned(simplify(read_network(network)), image)
    return lambda: net(image)


FP32, BF16, CONTIGUOUS, LAST = torch.float32, torch.bfloat16, torch.contiguous_format, torch.channels_last
OURS = "sparse engine"
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
    Runtime(OURS, "ours", _ours),
)


def find_runtime(label: str) -> Runtime:
    """The row of that label; ValueError with the choices."""
    for runtime in RUNTIMES:
        if runtime.label == label:
            return runtime
    raise ValueError(f"runtime '{label}' is not one of {', '.join(row.label for row in RUNTIMES)}")
