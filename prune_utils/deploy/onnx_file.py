"""A graph as an ONNX model, any batch and image size where the network's code leaves them free.

Graphs of convolutions, linear layers, rectifiers, sums, joins and maximum poolings are written node by node
with
the onnx package alone: names stay readable. Any other graph goes through torch.export and onnxscript.
Outputs are named by task.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..text import as_json
from .graph import Call, Conv, Graph, Node, Ref
from .packages import need
from .program import exported_program

OPSET = 18


class _Writer:
    """Collects nodes and constants."""

    def __init__(self) -> None:
        self.onnx = need("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def pool(self, node: Call) -> None:
        pool = node.op
        assert isinstance(pool, nn.MaxPool2d)  # of what is written by hand
        self.node(
            "MaxPool",
            [node.args[0].name],
            node.name,
            kernel_shape=[pool.kernel_size] * 2,
            strides=[pool.stride] * 2,
            pads=[pool.padding] * 4,
            ceil_mode=int(pool.ceil_mode),
        )

    def residual(self, name: str, node: Conv) -> str:
        if node.rows is None:
            return name
        amounts = self.constant(f"{node.name}.pads", np.array([0, 1], dtype=np.int64))
        axes = self.constant(f"{node.name}.axes", np.array([node.axis], dtype=np.int64))
        padded = self.node("Pad", [name, amounts, "", axes], f"{node.name}.padded")
        rows = self.constant(f"{node.name}.rows", node.rows.numpy())  # -1 is the zero channel put at the end
        return self.node("Gather", [padded, rows], f"{node.name}.picked", axis=node.axis)

    def conv(self, node: Conv) -> None:
        bias = node.bias.float().numpy()
        weight = node.weight.flatten(1).t() if node.linear else node.weight
        steps = ["MatMul", "Add"] if node.linear else ["Conv"]
        steps += ["Residual"] * (node.residual is not None) + ["Relu"] * node.relu
        names = [f"{node.name}.{step.lower()}" for step in steps[:-1]] + [node.name]
        inputs = [node.input, self.constant(f"{node.name}.weight", weight.numpy())]
        value = ""
        for step, name in zip(steps, names, strict=True):
            if step == "Conv":
                inputs.append(self.constant(f"{node.name}.bias", bias))
                value = self.node(
                    step,
                    inputs,
                    name,
                    strides=list(node.stride),
                    pads=list(node.padding) * 2,
                    dilations=list(node.dilation),
                    group=node.groups,
                    kernel_shape=list(node.weight.shape[2:]),
                )
            elif step == "MatMul":
                value = self.node(step, inputs, name)
            elif step == "Add":
                value = self.node(step, [value, self.constant(f"{node.name}.bias", bias)], name)
            elif step == "Residual" and node.residual is not None:
                value = self.node("Add", [value, self.residual(node.residual, node)], name)
            else:
                value = self.node(step, [value], name)


def written_by_hand(graph: Graph, example: tuple[Any, ...] | None = None) -> bool:
    """Whether the graph can be written without onnxscript, for any batch and image size.

    example: arguments of one call; None = images [N, C, H, W], or rows [N, C] for linear layers.
    """
    kinds = {node.linear for node in graph.convolutions()}
    return (
        len(graph.inputs) == 1
        and len(kinds) == 1  # they tell the sides of the input
        and all(isinstance(node, Conv) or _simple(node) for node in graph.nodes)
        and (example is None or [value.dim() for value in example] == [2 if True in kinds else 4])
    )


def input_names(graph: Graph) -> list[str]:
    """The names of the network's arguments in its ONNX model: "image.input" where an output is "image"."""
    return [_unlike(graph.outputs, name, "input") for name in graph.inputs]


def _unlike(outputs: Mapping[str, str], name: str, ending: str) -> str:
    """The name, with that ending where an output has it: ONNX has one space for all values."""
    while name in outputs:
        name = f"{name}.{ending}"
    return name


def _simple(node: Call) -> bool:
    pool = node.op
    return (
        isinstance(pool, nn.MaxPool2d)
        and all(isinstance(value, int) for value in (pool.kernel_size, pool.stride, pool.padding))
        and pool.dilation == 1
        and not pool.return_indices
    )


def onnx_model(
    graph: Graph, metadata: dict[str, Any] | None = None, example: tuple[Any, ...] | None = None
) -> Any:
    """onnx.ModelProto, checked: the network's arguments as inputs (float32), its outputs by name.

    metadata: JSON values by name, kept in the model's properties. example: arguments of one call, for
    networks that are more than convolutions. ValueError where a package is missing, or where an example is
    needed.
    """
    onnx = need("onnx")
    model = _by_hand(graph) if written_by_hand(graph, example) else _by_torch(graph, example)
    onnx.helper.set_model_props(model, {key: as_json(value) for key, value in (metadata or {}).items()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _by_hand(graph: Graph) -> Any:
    writer, graph = _Writer(), _apart(graph)
    helper, kind = writer.onnx.helper, writer.onnx.TensorProto.FLOAT
    for node in graph.nodes:
        if isinstance(node, Conv):
            writer.conv(node)
        else:
            writer.pool(node)
    first = next(node for node in graph.nodes if isinstance(node, Conv))
    made = {graph.inputs[0]: first.weight.shape[1] * first.groups} | graph.channels()
    outputs = []
    for task, name in graph.outputs.items():
        writer.node("Identity", [name], task)
        sizes = ["batch", made.get(name), f"{task}_height", f"{task}_width"]
        outputs.append(helper.make_tensor_value_info(task, kind, sizes[:2] if first.linear else sizes))
    shape = ["batch", made[graph.inputs[0]], "height", "width"]
    image = helper.make_tensor_value_info(graph.inputs[0], kind, shape[:2] if first.linear else shape)
    body = helper.make_graph(writer.nodes, "multitask", [image], outputs, writer.constants)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _apart(graph: Graph) -> Graph:
    """The graph with no value of an output's name: ONNX has one space for both."""
    inputs = dict(zip(graph.inputs, input_names(graph), strict=True))

    def renamed(name: str) -> str:
        return inputs.get(name) or _unlike(graph.outputs, name, "value")

    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Conv):
            residual = None if node.residual is None else renamed(node.residual)
            nodes.append(replace(node, name=renamed(node.name), input=renamed(node.input), residual=residual))
        else:
            nodes.append(replace(node, name=renamed(node.name), args=(Ref(renamed(node.args[0].name)),)))
    outputs = {task: renamed(name) for task, name in graph.outputs.items()}
    return replace(graph, nodes=nodes, outputs=outputs, inputs=tuple(inputs.values()))


def _by_torch(graph: Graph, example: tuple[Any, ...] | None) -> Any:
    need("onnxscript")
    graph = replace(graph, structure=tuple(map(Ref, graph.outputs.values())))  # of constants ONNX has none
    program = torch.onnx.export(
        exported_program(graph, example),
        input_names=input_names(graph),
        output_names=list(graph.outputs),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # of the dynamo exporter
    model = program.model_proto
    _name_weights(model, graph)
    return model


def _name_weights(model: Any, graph: Graph) -> None:
    """The constants of a model of PlainNet, called steps.3.weight, by the layers' own names.

    Weights of linear layers may stand there turned, as a value without a name.
    """
    rows = {f"{node.name}.weight": node.weight.flatten(1) for node in graph.convolutions() if node.linear}
    known = {value.name for value in (*model.graph.initializer, *model.graph.input)}
    known |= {name for node in model.graph.node for name in node.output}
    names = {}
    for value in model.graph.initializer:
        found = re.fullmatch(r"steps\.(\d+)\.(?:op\.)?(.+)", value.name)
        name = f"{graph.nodes[int(found[1])].name}.{found[2]}" if found else _turned(value, rows)
        if name not in known:
            names[value.name] = name
            known.add(name)
    for value in (*model.graph.initializer, *model.graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


def _turned(value: Any, weights: Mapping[str, torch.Tensor]) -> str:
    """The name of the weight [O, I] that a constant is, turned; its own name where it is none."""
    array = need("onnx").numpy_helper.to_array(value)
    same = (name for name, weight in weights.items() if np.array_equal(weight.t().numpy(), array))
    return next(same, value.name)


def write_onnx(
    graph: Graph, path: Path, metadata: dict[str, Any] | None = None, example: tuple[Any, ...] | None = None
) -> None:
    """The checked model as a file."""
    need("onnx").save(onnx_model(graph, metadata, example), str(path))


def make_session(model: bytes | str, threads: int = 0) -> Any:
    """onnxruntime.InferenceSession on the CPU; threads 0 = torch's number."""
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
