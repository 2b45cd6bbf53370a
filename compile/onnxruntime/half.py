"""A float ONNX file in half precision, its input and output left in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

FLOAT_INPUTS = {"Resize": (1, 2)}
"""Operator -> inputs that ONNX wants in float32 whatever the rest is: the region and the scales."""

LARGEST = 65504.0
"""The largest half."""


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that computes in fp16: constants are rounded, the input is cast on entry and the output on exit.

    Args:
        model: float32, one input and one output, constants as initialisers or Constant nodes.

    """
    import onnx
    from onnx import TensorProto, helper

    out = onnx.ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    kept = {n.input[i] for n in graph.node for i in FLOAT_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    for tensor in graph.initializer:
        if tensor.name not in kept:
            _round(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] not in kept:
            for attribute in node.attribute:
                _round(attribute.t)
    source, result = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        _rename(node.input, {source: f"{source}.half", result: f"{result}.half"})
        _rename(node.output, {result: f"{result}.half"})
    enter = helper.make_node("Cast", [source], [f"{source}.half"], f"{source}.cast", to=TensorProto.FLOAT16)
    leave = helper.make_node("Cast", [f"{result}.half"], [result], f"{result}.cast", to=TensorProto.FLOAT)
    graph.node.insert(0, enter)
    graph.node.append(leave)
    del graph.value_info[:]
    onnx.checker.check_model(out, full_check=True)
    return out


def halved(value: NDArray[np.float32]) -> NDArray[np.float16]:
    """A constant in fp16; what is too large becomes the largest."""
    return np.clip(value, -LARGEST, LARGEST).astype(np.float16)


def _round(tensor: onnx.TensorProto) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(halved(numpy_helper.to_array(tensor)), tensor.name))


def _rename(names: object, to: dict[str, str]) -> None:
    fields: list[str] = names  # type: ignore[assignment] # protobuf's repeated field behaves as one
    for index, name in enumerate(fields):
        fields[index] = to.get(name, name)
