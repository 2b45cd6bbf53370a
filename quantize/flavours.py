"""The two flavours of a Q/DQ graph, written over the marker nodes of one exported network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from quantize.artifact import Flavour
from quantize.scales import ActivationScale, Parameters

if TYPE_CHECKING:
    import onnx

MARKER_OP = "FakeQuant"
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _Rules:
    """What a flavour asks for."""

    dtype: type[np.generic]
    for_onnxruntime: bool

    def zero_point(self, activation: ActivationScale) -> np.generic:
        """Zero point of an activation in the type that stores it."""
        return self.dtype(activation.zero_u8 if self.dtype is np.uint8 else activation.zero_s8)


_RULES: dict[str, _Rules] = {"s8": _Rules(np.int8, for_onnxruntime=False), "u8": _Rules(np.uint8, for_onnxruntime=True)}


def write_flavour(model: onnx.ModelProto, parameters: Parameters, flavour: Flavour) -> None:
    """Replace the markers of ``model``, in place, by QuantizeLinear / DequantizeLinear of one flavour."""
    writer = _Writer(model, parameters, _RULES[flavour])
    writer.replace_markers()
    if writer.rules.for_onnxruntime:
        writer.quantize_biases()
        writer.round_before_clips()
    model.graph.initializer.extend(writer.constants.values())


class _Writer:
    """Replaces the marker nodes of one graph."""

    def __init__(self, model: onnx.ModelProto, parameters: Parameters, rules: _Rules) -> None:
        from onnx import numpy_helper

        self.graph, self.parameters, self.rules = model.graph, parameters, rules
        self.constants: dict[str, onnx.TensorProto] = {}  # those that it adds
        self.values = {i.name: numpy_helper.to_array(i) for i in self.graph.initializer}
        self.values |= {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in self.graph.node if n.op_type == "Constant"}

    def replace_markers(self) -> None:
        """Put Q/DQ nodes where markers are, and integers where marked weights are."""
        self._set_nodes([new for node in self.graph.node for new in self._replacement(node)])

    def _replacement(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        from onnx import helper

        if node.op_type != MARKER_OP:
            yield node
            return
        name = node.attribute[0].s.decode()
        if name in self.parameters.float_tensors or name in self.parameters.float_weights:
            yield helper.make_node("Identity", node.input, node.output, f"{name}.float")
            return
        yield from self._weight(node, name) if name in self.parameters.weights else self._activation(node, name)

    def _activation(self, node: onnx.NodeProto, name: str) -> Iterator[onnx.NodeProto]:
        from onnx import helper

        activation = self.parameters.activations[name]
        constants = [
            self._constant(f"{name}.scale", np.asarray(activation.scale, np.float32)),
            self._constant(f"{name}.zero_point", np.asarray(self.rules.zero_point(activation))),
        ]
        integers = f"{name}.integers"
        yield helper.make_node("QuantizeLinear", [node.input[0], *constants], [integers], f"{name}.quantize")
        yield helper.make_node("DequantizeLinear", [integers, *constants], [node.output[0]], f"{name}.dequantize")

    def _weight(self, node: onnx.NodeProto, name: str) -> Iterator[onnx.NodeProto]:
        from onnx import helper

        weight = self.parameters.weights[name]
        inputs = [
            self._constant(f"{name}.integers", weight.integers),
            self._constant(f"{name}.scale", weight.scale),
            self._constant(f"{name}.zero_point", np.zeros(len(weight.scale), np.int8)),
        ]
        yield helper.make_node("DequantizeLinear", inputs, [node.output[0]], f"{name}.dequantize", axis=weight.axis)

    def quantize_biases(self) -> None:
        """Biases of the int8 convolutions as int32 initialisers of scale (input x weight) behind a DequantizeLinear."""
        from onnx import helper

        producers = {out: node for node in self.graph.node for out in node.output}
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            scale = self._bias_scale(node, producers)
            if scale is not None and node.input[2] in self.values:
                name = f"{producers[node.input[1]].name.removesuffix('.weight.dequantize')}.bias"
                integers = np.rint(self.values[node.input[2]].astype(np.float64) / scale)
                if np.abs(integers).max() <= _INT32_MAX:
                    inputs = [
                        self._constant(f"{name}.integers", integers.astype(np.int32)),
                        self._constant(f"{name}.scale", scale),
                        self._constant(f"{name}.zero_point", np.zeros(len(scale), np.int32)),
                    ]
                    nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}.float"], f"{name}.dequantize", axis=0))
                    node.input[2] = f"{name}.float"
            nodes.append(node)
        self._set_nodes(nodes)

    def round_before_clips(self) -> None:
        """Q/DQ also before an upper clip (ReLU6) that u8's 255 steps do not imply, so that the convolution before it stays in int8."""
        from onnx import helper

        producers = {out: node for node in self.graph.node for out in node.output}
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            clip = producers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
            conv = producers.get(clip.input[0]) if clip is not None and clip.op_type == "Clip" else None
            if clip is not None and conv is not None and conv.op_type == "Conv" and not self._implied(clip, node):
                integers, rounded = f"{node.name}.before_clip.integers", f"{node.name}.before_clip.float"
                quantize = helper.make_node("QuantizeLinear", [clip.input[0], *node.input[1:]], [integers], f"{node.name}.before_clip")
                dequantize = helper.make_node("DequantizeLinear", [integers, *node.input[1:]], [rounded], f"{node.name}.after_round")
                at = nodes.index(clip)
                nodes[at:at] = [quantize, dequantize]
                clip.input[0] = rounded
            nodes.append(node)
        self._set_nodes(nodes)

    def _implied(self, clip: onnx.NodeProto, quantize: onnx.NodeProto) -> bool:
        return bool(self.values[quantize.input[1]] * 255 <= self.values.get(clip.input[2], np.inf))

    def _set_nodes(self, nodes: list[onnx.NodeProto]) -> None:
        kept = [_copy(node) for node in nodes]  # emptying the graph frees the nodes that it owns
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def _bias_scale(self, node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> NDArray[np.float32] | None:
        if node.op_type != "Conv" or len(node.input) < 3:
            return None
        feeds = [producers.get(name) for name in node.input[:2]]
        if any(f is None or f.op_type != "DequantizeLinear" for f in feeds):
            return None
        x, w = (self.values[f.input[1]] for f in feeds if f is not None)
        product: NDArray[np.float32] = (x * w).astype(np.float32)
        return product

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants[name], self.values[name] = numpy_helper.from_array(value, name), value
        return name


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    out = onnx.NodeProto()
    out.CopyFrom(node)
    return out
