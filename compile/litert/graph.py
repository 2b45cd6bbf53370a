"""An ONNX graph of fixed size, ready to be walked: constants, shapes, and what follows an operator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How integers stand for floats: float = (integer - zero) x scale. ``name`` is the tensor's in quantization.json.

    scale: float32 [] or, for weights, [output channels]. zero: of int8, whatever the file has: an unsigned one moves down by 128.
    """

    name: str
    scale: NDArray[np.float32]
    zero: int
    axis: int = 0

    def same(self, other: Scale) -> bool:
        """Whether integers may pass from one to the other as they are."""
        return bool(np.array_equal(self.scale, other.scale)) and self.zero == other.zero


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant of integers and their scale."""

    integers: Array
    scale: Scale

    def floats(self) -> NDArray[np.float32]:
        """What the integers stand for."""
        shape = [1] * self.integers.ndim
        if self.scale.scale.ndim and self.integers.ndim:
            shape[self.scale.axis] = -1
        out: NDArray[np.float32] = self.integers.astype(np.float32) * self.scale.scale.reshape(shape)
        return out


@dataclass(slots=True)
class Tail:
    """What directly follows an operator and can be computed with it.

    output      the tensor that carries the result on
    activation  "", "Relu", "Relu6" or "HardSwish"
    scale       of the integers that the result is rounded to; None: it stays float
    nodes       the nodes that this stands for
    """

    output: str
    activation: str = ""
    scale: Scale | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)


class Graph:
    """A graph.

    Args:
        model: ONNX, all shapes inferable.

    """

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx
        from onnx import numpy_helper

        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        self.nodes = list(graph.node)
        self.inputs, self.outputs = [v.name for v in graph.input], [v.name for v in graph.output]
        self.shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.value_info, *graph.output)
        }
        self.values: dict[str, Array] = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self.values |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in self.nodes if n.op_type == "Constant"}
        self.consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        self.producers = {name: node for node in self.nodes for name in node.output}
        for node in self.nodes:
            for name in node.input:
                self.consumers[name].append(node)
        self.weights = {n.output[0]: self._weight(n) for n in self.nodes if n.op_type == "DequantizeLinear" and n.input[0] in self.values}

    def floats(self, name: str) -> NDArray[np.float32] | None:
        """A constant as floats; None when the tensor is computed."""
        if name in self.weights:
            return self.weights[name].floats()
        return self.values.get(name)

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor; None when there are several, or when it is the graph's output."""
        readers = self.consumers[name]
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def bounds(self, name: str) -> tuple[float, float] | None:
        """Least and largest value that a tensor can have by what computes it: a clip or a gate, perhaps times a constant; else None."""
        node = self.producers.get(name)
        if node is None:
            return None
        if node.op_type in ("Sigmoid", "HardSigmoid"):
            return 0.0, 1.0
        if node.op_type == "Clip" and all(n in self.values for n in node.input[1:3]):
            return float(self.values[node.input[1]]), float(self.values[node.input[2]])
        factors = [self.values[n] for n in node.input if n in self.values and self.values[n].size == 1]
        inner = [self.bounds(n) for n in node.input if n not in self.values]
        if node.op_type == "Mul" and factors and inner[0] is not None and factors[0] > 0:
            return inner[0][0] * float(factors[0].item()), inner[0][1] * float(factors[0].item())
        return None

    def scale_of(self, node: onnx.NodeProto) -> Scale:
        """Scale of a QuantizeLinear or DequantizeLinear."""
        scale, zero = (self.values[name] for name in node.input[1:3])
        lowest = int(np.atleast_1d(zero).reshape(-1)[0]) - (128 if zero.dtype == np.uint8 else 0)
        name = node.name.removesuffix(".quantize").removesuffix(".dequantize")
        return Scale(name, np.asarray(scale, np.float32), lowest, int(attributes(node).get("axis", 0)))

    def tail(self, node: onnx.NodeProto) -> Tail:
        """Activation and rounding behind a node, as far as nothing else reads what is between."""
        found = Tail(node.output[0])
        while (reader := self.only_consumer(found.output)) is not None:
            kind = self.activation(reader)
            if found.scale is None and not found.activation and kind:
                found = Tail(reader.output[0], kind, None, [*found.nodes, reader])
                continue
            if reader.op_type != "QuantizeLinear" or found.scale is not None:
                break
            found = self._rounded(found, reader)
        return found

    def activation(self, node: onnx.NodeProto) -> str:
        """Name of an activation that can be computed with the operator before it, else empty."""
        if node.op_type == "Clip":
            bounds = [float(self.values.get(name, np.asarray(np.nan))) for name in node.input[1:3]]
            return "Relu6" if bounds == [0.0, 6.0] else ""
        return node.op_type if node.op_type in ("Relu", "HardSwish") else ""

    def _rounded(self, tail: Tail, quantize: onnx.NodeProto) -> Tail:
        scale = self.scale_of(quantize)
        dequantize = self.consumers[quantize.output[0]][0]
        nodes = [*tail.nodes, quantize, dequantize]
        clip = self.only_consumer(dequantize.output[0])
        again = (
            self.only_consumer(clip.output[0]) if clip is not None and not tail.activation and self.activation(clip) == "Relu6" else None
        )
        if clip is not None and again is not None and again.op_type == "QuantizeLinear" and self.scale_of(again).same(scale):
            return self._rounded(Tail(clip.output[0], "Relu6", None, [*nodes, clip]), again)  # rounded before the clip too: the same
        return Tail(dequantize.output[0], tail.activation, scale, nodes)

    def _weight(self, node: onnx.NodeProto) -> Weight:
        return Weight(self.values[node.input[0]], self.scale_of(node))


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """A node's attributes as Python values."""
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
