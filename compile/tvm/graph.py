"""An ONNX graph of fixed size with what a reader asks of it: constants, quantized weights, who makes a value and who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.tvm.kernels.tensors import Number

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Quantized:
    """A constant behind a DequantizeLinear: float = integers * scale along ``axis``."""

    integers: NDArray[Any]
    scale: NDArray[np.float32]
    axis: int

    def real(self) -> NDArray[np.float32]:
        """The float values."""
        shape = [1] * self.integers.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        return np.asarray(self.integers.astype(np.float32) * self.scale.reshape(shape), np.float32)


class Graph:
    """The nodes of a model in order, and their surroundings."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx
        from onnx import numpy_helper

        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        graph = inferred.graph
        self.opset = int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))
        self.constants: dict[str, NDArray[Any]] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.quantized: dict[str, Quantized] = {}
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type == "Identity" and node.input[0] in self.constants:  # exporters write equal constants once
                self.constants[node.output[0]] = self.constants[node.input[0]]
            elif node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                self._keep(node)
            else:
                self.nodes.append(node)
        self.shapes = {v.name: _shape(v) for v in (*graph.value_info, *graph.input, *graph.output)}
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self._users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def only_user(self, name: str) -> onnx.NodeProto | None:
        """The node that alone reads a value; None where several do, or where it leaves the graph."""
        users = self._users.get(name, [])
        return users[0] if len(users) == 1 and name != self.output else None

    def number(self, node: onnx.NodeProto) -> Number | None:
        """The scale and zero point of a QuantizeLinear, where they are constants for the whole tensor."""
        if len(node.input) < 3 or any(name not in self.constants for name in node.input[1:]):
            return None
        scale, zero = (self.constants[name] for name in node.input[1:])
        if scale.size != 1 or str(zero.dtype) not in ("uint8", "int8"):
            return None
        return Number(str(zero.dtype), float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))

    def real(self, name: str) -> NDArray[Any] | None:
        """A constant as the float graph sees it."""
        return self.quantized[name].real() if name in self.quantized else self.constants.get(name)

    def _keep(self, node: onnx.NodeProto) -> None:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        scale = np.atleast_1d(self.constants[node.input[1]]).astype(np.float32)
        self.quantized[node.output[0]] = Quantized(self.constants[node.input[0]], scale, axis)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node by name; byte strings decoded."""
    import onnx

    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in found.items()}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
