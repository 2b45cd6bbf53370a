"""A small ONNX writer for microbenchmarks: the operators of a student, in float or with Q/DQ around them as ``quantize`` writes it."""

from __future__ import annotations

from typing import Any

import numpy as np

_LEVELS = {"s8": np.int8, "u8": np.uint8}
_SCALE = np.float32(5.9 / 255)  # unsigned values end before ReLU6 does: runtimes then fold it into the rounding


class Graph:
    """Network under construction; every method adds operators and returns the name of its output.

    Args:
        flavour: "" for float, "s8" or "u8" for Q/DQ with activations of that type.
        opset: of the model; below 14 hard-swish is spelled x * HardSigmoid(x), as exporters do.

    """

    def __init__(self, flavour: str = "", opset: int = 17) -> None:
        self.flavour, self.opset = flavour, opset
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._random = np.random.default_rng(0)
        self._outputs: list[str] = []

    def conv(self, x: str, incoming: int, width: int, kernel: int, *, groups: int = 1, stride: int = 1, activation: str = "") -> str:
        """Convolution padded to keep height and width (stride 1) or halve them (2), activation, quantization."""
        shape = (width, incoming // groups, kernel, kernel)
        attributes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": groups}
        return self._filtered("Conv", x, shape, width, 0, activation, attributes)

    def deconv(self, x: str, incoming: int, width: int) -> str:
        """Transposed 2x2 convolution with stride 2 and ReLU: doubles height and width."""
        attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return self._filtered("ConvTranspose", x, (incoming, width, 2, 2), width, 1, "Relu", attributes)

    def add(self, a: str, b: str) -> str:
        """Sum, quantized."""
        return self.quantized(self._node("Add", [a, b]))

    def plain_add(self, a: str, b: str) -> str:
        """Sum in float: the global residual."""
        return self._node("Add", [a, b])

    def concat(self, a: str, b: str) -> str:
        """Channels behind each other."""
        return self.quantized(self._node("Concat", [a, b], axis=1))

    def resize(self, x: str, mode: str) -> str:
        """Double height and width: "linear" or "nearest"."""
        scales = self._constant(np.array([1, 1, 2, 2], np.float32))
        how = {"linear": ("half_pixel", "floor"), "nearest": ("asymmetric", "floor")}[mode]
        out = self._node("Resize", [x, "", scales], mode=mode, coordinate_transformation_mode=how[0], nearest_mode=how[1])
        return self.quantized(out)

    def squeeze_excite(self, x: str, channels: int, inner: int) -> str:
        """Pool, reduce, ReLU, restore, hard sigmoid, multiply: in float but for the pooling's input and the product, as students do it."""
        pooled = self._node("GlobalAveragePool", [x])
        hidden = self._node("Relu", [self._float_conv(pooled, channels, inner)])
        shifted = self._node("Add", [self._float_conv(hidden, inner, channels), self._constant(np.float32(3))])
        clipped = self._node("Clip", [shifted, self._constant(np.float32(0)), self._constant(np.float32(6))])
        gate = self._node("Mul", [clipped, self._constant(np.float32(1 / 6))])
        return self.quantized(self._node("Mul", [x, gate]))

    def space_to_depth(self, x: str, block: int) -> str:
        """[1, C, H, W] -> [1, block² C, H / block, W / block]."""
        return self._node("SpaceToDepth", [x], blocksize=block)

    def depth_to_space(self, x: str, block: int) -> str:
        """The inverse."""
        return self._node("DepthToSpace", [x], blocksize=block)

    def quantized(self, x: str, *, signed: bool = True) -> str:
        """In float: the tensor itself; else through Q and DQ with a scale that fits these networks' values."""
        if not self.flavour:
            return x
        kind = _LEVELS[self.flavour]
        zero = 128 if self.flavour == "u8" and signed else 0
        scale, point = self._constant(_SCALE), self._constant(np.array(zero, kind))
        return self._node("DequantizeLinear", [self._node("QuantizeLinear", [x, scale, point]), scale, point])

    def output(self, x: str) -> None:
        """Make a tensor the network's output."""
        self._nodes[-1].output[0] = "restored"
        self._outputs.append(x)

    def model(self) -> Any:
        """The finished ONNX model: "lq" float32 [1, 3, H, W] to "restored" of the same shape."""
        from onnx import TensorProto, checker, helper

        def image(name: str) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, "height", "width"])

        graph = helper.make_graph(self._nodes, "microbench", [image("lq")], [image("restored")], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        checker.check_model(model)
        return model

    def _filtered(self, op: str, x: str, shape: tuple[int, ...], width: int, axis: int, activation: str, attributes: dict[str, Any]) -> str:
        weight, bias = self._weights(shape, width, axis)
        out = self._node(op, [x, weight, bias], **attributes)
        return self.quantized(self._activated(out, activation), signed=activation not in ("Relu", "Clip"))

    def _activated(self, x: str, activation: str) -> str:
        if activation == "Clip":
            return self._node("Clip", [x, self._constant(np.float32(0)), self._constant(np.float32(6))])
        if activation == "HardSwish" and self.opset < 14:
            return self._node("Mul", [x, self._node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
        return self._node(activation, [x]) if activation else x

    def _weights(self, shape: tuple[int, ...], width: int, axis: int) -> tuple[str, str]:
        values = self._random.normal(0, 1 / np.sqrt(np.prod(shape) / width), shape).astype(np.float32)
        if not self.flavour:
            return self._constant(values), self._constant(np.zeros(width, np.float32))
        scale = np.full(width, np.abs(values).max() / 127, np.float32)
        weight = self._dequantized(np.clip(np.rint(values / scale[0]), -127, 127).astype(np.int8), scale, np.zeros(width, np.int8), axis)
        return weight, self._dequantized(np.zeros(width, np.int32), scale * _SCALE, np.zeros(width, np.int32), 0)

    def _dequantized(self, integers: np.ndarray, scale: np.ndarray, zero: np.ndarray, axis: int) -> str:
        inputs = [self._constant(integers), self._constant(scale), self._constant(zero)]
        return self._node("DequantizeLinear", inputs, axis=axis)

    def _float_conv(self, x: str, incoming: int, width: int) -> str:
        values = self._random.normal(0, 1 / np.sqrt(incoming), (width, incoming, 1, 1)).astype(np.float32)
        return self._node("Conv", [x, self._constant(values), self._constant(np.zeros(width, np.float32))], kernel_shape=[1, 1])

    def _constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name
