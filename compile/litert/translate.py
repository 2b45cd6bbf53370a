"""From the ONNX files of the model folder to .tflite, operator by operator, so that every scale and integer arrives as it is.

Tensors are channel-last from end to end: no operator moves channels about. What has integers in the source has the same integers here
(an unsigned file's, minus 128); what stayed in float stays in float. Two forms differ from the source, because XNNPACK does not take
its form: a gate in [0, 1] is rounded to 255 steps before it multiplies int8 features, and hard-swish is written in operators that it
has. Neither needs a calibration: the ranges follow from the mathematics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compile.litert.flatbuffer import Writer
from compile.litert.graph import Graph, Scale, Tail
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    import onnx

LAYOUT = (0, 2, 3, 1)


class Translator:
    """What is written so far, and where the tensors of the source are in it.

    Args:
        graph: the source.
        half: store the weights of convolutions in fp16.

    """

    def __init__(self, graph: Graph, half: bool = False) -> None:
        self.graph, self.half, self.writer = graph, half, Writer()
        # by the source's names; a tensor may be there in both forms
        self.float_tensors: dict[str, int] = {name: self.writer.tensor(name, self.shape(name)) for name in graph.inputs}
        self.int8_tensors: dict[str, tuple[int, Scale]] = {}
        self.done: set[int] = set()  # ids of the nodes that an operator before them has taken with it

    def file(self) -> bytes:
        """Return the .tflite, once every node is written."""
        inputs = {name: self.float_tensors[name] for name in self.graph.inputs}
        return self.writer.finish(inputs, {name: self.float(name) for name in self.graph.outputs})

    def shape(self, name: str) -> tuple[int, ...]:
        """Channel-last shape of a tensor."""
        shape = self.graph.shapes[name]
        return tuple(shape[axis] for axis in LAYOUT) if len(shape) == len(LAYOUT) else shape

    def float(self, name: str) -> int:
        """Return a tensor as float32."""
        if name not in self.float_tensors:
            value = self.graph.floats(name)
            if value is not None:
                self.float_tensors[name] = self.writer.constant(name, _channel_last(value.astype(np.float32)))
            else:
                number, _ = self.int8_tensors[name]
                self.float_tensors[name] = self.writer.operator(
                    "DEQUANTIZE", [number], self.writer.tensor(f"{name}.float", self.shape(name))
                )
        return self.float_tensors[name]

    def int8(self, name: str, scale: Scale) -> int:
        """Return a tensor as int8 of this scale."""
        if name in self.int8_tensors and self.int8_tensors[name][1].same(scale):
            return self.int8_tensors[name][0]
        source = self.int8_tensors[name][0] if name in self.int8_tensors else self.float(name)
        return self.writer.operator("QUANTIZE", [source], self.writer.tensor(scale.name, self.shape(name), scale))

    def scale(self, name: str) -> Scale | None:
        """Scale of a tensor that is there as int8."""
        found = self.int8_tensors.get(name)
        return found[1] if found else None

    def emit_float(self, kind: str, inputs: Sequence[int], node: onnx.NodeProto, tail: Tail, **options: Any) -> None:
        """Write a float operator and what follows it."""
        shape = self.shape(node.output[0])
        fused = {"fusedActivationFunction": self.activation(tail)} if kind in _FUSING else {}
        number = self.writer.operator(kind, inputs, self.writer.tensor(node.output[0], shape), **options, **fused)
        if tail.activation and (not fused or tail.activation == "HardSwish"):
            number = self.writer.operator(_ACTIVATIONS[tail.activation], [number], self.writer.tensor(f"{node.output[0]}.act", shape))
        self.settle(tail)
        if tail.scale is None:
            self.float_tensors[tail.output] = number
        else:
            rounded = self.writer.tensor(tail.scale.name, shape, tail.scale)
            self.int8_tensors[tail.output] = (self.writer.operator("QUANTIZE", [number], rounded), tail.scale)

    def emit_int8(self, kind: str, inputs: Sequence[int], node: onnx.NodeProto, tail: Tail, scale: Scale, **options: Any) -> None:
        """Write an int8 operator whose result has this scale, its activation (ReLU or ReLU6) included."""
        number = self.writer.tensor(scale.name, self.shape(node.output[0]), scale)
        if kind in _FUSING:
            options["fusedActivationFunction"] = self.activation(tail)
        self.int8_tensors[tail.output] = (self.writer.operator(kind, inputs, number, **options), scale)
        self.settle(tail)

    def settle(self, tail: Tail) -> None:
        """Mark what an operator has taken with it as written."""
        self.done.update(id(node) for node in tail.nodes)

    def activation(self, tail: Tail) -> int:
        """The schema's number of an activation that operators compute with them."""
        names = self.writer.schema.ActivationFunctionType
        return int({"Relu": names.RELU, "Relu6": names.RELU6}.get(tail.activation, names.NONE))


_FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "MUL")
_ACTIVATIONS = {"Relu": "RELU", "Relu6": "RELU6", "HardSwish": "HARD_SWISH"}


def refusal(node: onnx.NodeProto, what: str) -> StageFailed:
    """Return the error for a node that cannot be written."""
    return StageFailed("compile.litert", f"operator {node.op_type} ('{node.name}') {what}", "use another backend for this network")


def unit_scale(name: str, low: float, high: float) -> Scale:
    """Scale of int8 that spans [low, high], with 0 on its grid: low <= 0 <= high."""
    step = np.float32((high - low) / 255)
    return Scale(name, np.asarray(step, np.float32), int(np.clip(round(-128 - low / float(step)), -128, 127)))


def _channel_last(value: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(value.transpose(LAYOUT)) if value.ndim == len(LAYOUT) else value


Handler = Callable[[Translator, "onnx.NodeProto"], None]

__all__ = ["Handler", "Translator", "refusal", "unit_scale"]
