"""A graph as an ONNX model: convolutions, rectifiers, sums and one pooling, any batch and image size.

Written node by node with the onnx package alone: names stay readable and outputs are named by task.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .graph import IMAGE, Conv, Graph, Pool
from .packages import need

OPSET = 18


class _Writer:
    """Collects nodes and constants."""

    def __init__(self):
        self.onnx = need("onnx")
        self.nodes, self.constants = [], []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def pool(self, node: Pool, output: str) -> None:
        self.node(
            "MaxPool",
            [node.input],
            output,
            kernel_shape=[node.kernel] * 2,
            strides=[node.stride] * 2,
            pads=[node.padding] * 4,
            ceil_mode=1,
        )

    def residual(self, node: Conv) -> str:
        if node.rows is None:
            return node.residual
        amounts = self.constant(f"{node.name}.pads", np.array([0, 1], dtype=np.int64))
        axes = self.constant(f"{node.name}.axes", np.array([1], dtype=np.int64))
        padded = self.node("Pad", [node.residual, amounts, "", axes], f"{node.name}.padded")
        rows = self.constant(f"{node.name}.rows", node.rows.numpy())  # -1 is the zero channel put at the end
        return self.node("Gather", [padded, rows], f"{node.name}.picked", axis=1)

    def conv(self, node: Conv, output: str) -> None:
        weight = self.constant(f"{node.name}.weight", node.weight.numpy())
        bias = self.constant(f"{node.name}.bias", node.bias.float().numpy())
        steps = ["Conv"] + ["Add"] * (node.residual is not None) + ["Relu"] * node.relu
        names = [f"{node.name}.{step.lower()}" for step in steps[:-1]] + [output]
        value = self.node(
            "Conv",
            [node.input, weight, bias],
            names[0],
            strides=[node.stride] * 2,
            pads=[node.padding] * 4,
            dilations=[node.dilation] * 2,
            kernel_shape=list(node.weight.shape[2:]),
        )
        for step, name in zip(steps[1:], names[1:], strict=True):
            inputs = [value, self.residual(node)] if step == "Add" else [value]
            value = self.node(step, inputs, name)


def onnx_model(graph: Graph, metadata: dict | None = None):
    """onnx.ModelProto, checked: input `image` [batch, 3, height, width] float32, one output a task.

    metadata: JSON values by name, kept in the model's properties. ValueError where onnx is not installed.
    """
    writer = _Writer()
    helper, kind = writer.onnx.helper, writer.onnx.TensorProto.FLOAT
    for node in graph.nodes:
        (writer.pool if isinstance(node, Pool) else writer.conv)(node, node.name)
    channels, outputs = graph.channels(), []
    for task, name in graph.outputs.items():
        writer.node("Identity", [name], task)
        shape = ["batch", channels[name], f"{task}_height", f"{task}_width"]
        outputs.append(helper.make_tensor_value_info(task, kind, shape))
    image = helper.make_tensor_value_info(IMAGE, kind, ["batch", graph.image_channels, "height", "width"])
    body = helper.make_graph(writer.nodes, "multitask", [image], outputs, writer.constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in (metadata or {}).items()})
    writer.onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(graph: Graph, path: Path, metadata: dict | None = None) -> None:
    """The checked model as a file."""
    need("onnx").save(onnx_model(graph, metadata), str(path))


def make_session(model: bytes | str, threads: int = 0):
    """onnxruntime.InferenceSession on the CPU; threads 0 = torch's number."""
    runtime = need("onnxruntime")
    import torch

    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
