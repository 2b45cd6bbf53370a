"""What of an ONNX graph fits a kernel: convolutions with their numbers, what may be melted into the end of a step, doubling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.tvm.graph import Graph, attributes
from compile.tvm.kernels.finish import CURVED, Activation
from compile.tvm.kernels.resize import Mode
from compile.tvm.kernels.tensors import Number
from compile.tvm.steps import ConvStep, Tensor

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows a computed value and needs no pass of its own.

    name        the last value, which takes the place of the first
    number      integers that it is stored in; None leaves it float
    activation  between the two
    absorbed    names of the values that are no longer computed apart
    """

    name: str
    number: Number | None
    activation: Activation
    absorbed: tuple[str, ...]


def tail(graph: Graph, name: str, activations: bool) -> Tail:
    """Follow a value through an activation (where ``activations``) and a QuantizeLinear, while nothing else reads what lies between."""
    activation: Activation = ""
    absorbed: list[str] = []
    while True:
        node = graph.only_user(name)
        if node is None:
            return Tail(name, None, activation, tuple(absorbed))
        if node.op_type == "QuantizeLinear" and node.input[0] == name:
            number = graph.number(node)
            clip = _before_clip(graph, node) if activations and not activation else None
            if clip is not None:
                absorbed += clip
                name, activation = clip[-1], "relu6"
                continue
            if number is None:
                return Tail(name, None, activation, tuple(absorbed))
            return Tail(node.output[0], number, activation, (*absorbed, node.output[0]))
        found = _activation(graph, node) if activations and not activation else ""
        chain = [node.output[0]] if found else _hard_sigmoid(graph, node) if activations and not activation else []
        if not chain:
            return Tail(name, None, activation, tuple(absorbed))
        activation, name = found or "hardsigmoid", chain[-1]
        absorbed += chain


def _activation(graph: Graph, node: onnx.NodeProto) -> Activation:
    if node.op_type == "Relu":
        return "relu"
    if node.op_type == "HardSwish":
        return "hardswish"
    if node.op_type == "Clip" and len(node.input) == 3:
        bounds = [graph.constants.get(n) for n in node.input[1:]]
        if all(b is not None for b in bounds) and [float(b) for b in bounds if b is not None] == [0.0, 6.0]:
            return "relu6"
    return ""


def _hard_sigmoid(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """The values of relu6(x + 3) / 6 spelled out, from a node that may be its sum; else none."""
    clip = graph.only_user(node.output[0])
    scale = graph.only_user(clip.output[0]) if clip is not None and _activation(graph, clip) == "relu6" else None
    if clip is None or scale is None or (node.op_type, scale.op_type) != ("Add", "Mul"):
        return []
    three, sixth = (_scalar(graph, n) for n in (node, scale))
    return [n.output[0] for n in (node, clip, scale)] if three == 3.0 and abs(sixth - 1 / 6) < 1e-7 else []


def _scalar(graph: Graph, node: onnx.NodeProto) -> float:
    """The constant operand of a node with one number for all; NaN where there is none."""
    found = [graph.constants[name] for name in node.input if name in graph.constants]
    return float(found[0].reshape(-1)[0]) if len(found) == 1 and found[0].size == 1 else float("nan")


def _before_clip(graph: Graph, quantize: onnx.NodeProto) -> list[str] | None:
    """Integers, floats and result of a rounding that only stands before a clip to [0, 6], for the sake of a runtime that wants it."""
    dequantize = graph.only_user(quantize.output[0])
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    clip = graph.only_user(dequantize.output[0])
    if clip is None or _activation(graph, clip) != "relu6":
        return None
    again = graph.only_user(clip.output[0])
    if again is None or again.op_type != "QuantizeLinear" or graph.number(again) != graph.number(quantize):
        return None
    return [quantize.output[0], dequantize.output[0], clip.output[0]]


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution that the kernels take: its numbers [O, I, K, K], and for integers the scale of each output channel's weights."""

    weight: NDArray[Any]
    bias: NDArray[Any]
    scale: NDArray[np.float32] | None
    stride: int
    pad: int
    depthwise: bool


def convolution(graph: Graph, node: onnx.NodeProto, source: Tensor | None, integers: str) -> Convolution | None:
    """The convolution of a Conv node, or None when no kernel fits it.

    Args:
        graph: of the node.
        node: the Conv.
        source: its input where that is packed already.
        integers: type of the activations that the CPU multiplies.

    """
    shape = _geometry(graph, node)
    if shape is None:
        return None
    stride, pad, depthwise = shape
    quantized = graph.quantized.get(node.input[1])
    bias = graph.real(node.input[2]) if len(node.input) > 2 else None
    if len(node.input) > 2 and bias is None:
        return None
    if source is not None and source.number.dtype == integers and quantized is not None:
        if quantized.axis != 0 or str(quantized.integers.dtype) != "int8" or quantized.integers.min() < -127:
            return None
        weight: NDArray[Any] = quantized.integers
        scale = np.broadcast_to(quantized.scale, weight.shape[:1]).astype(np.float32)
    elif source is None or source.number.is_float:
        real = graph.real(node.input[1])
        if real is None:
            return None
        weight, scale = real.astype(np.float32), None
    else:
        return None
    whole = np.zeros(len(weight), np.float32) if bias is None else bias.astype(np.float32)
    return Convolution(weight, whole, scale, stride, pad, depthwise)


def _geometry(graph: Graph, node: onnx.NodeProto) -> tuple[int, int, bool] | None:
    """Stride, padding, and whether it is depthwise; None for what the kernels do not know."""
    weight, source = graph.real(node.input[1]), graph.shapes[node.input[0]]
    if weight is None or weight.ndim != 4 or len(source) != 4 or source[0] != 1:
        return None
    found = attributes(node)
    pads, strides = found.get("pads", [0] * 4), found.get("strides", [1, 1])
    square = weight.shape[2] == weight.shape[3] and len(set(pads)) == 1 and len(set(strides)) == 1
    group = found.get("group", 1)
    depthwise = group > 1 and group == source[1] == weight.shape[0] and weight.shape[1] == 1
    if (
        not square
        or set(found.get("dilations", [1])) != {1}
        or found.get("auto_pad", "NOTSET") != "NOTSET"
        or not (group == 1 or depthwise)
    ):
        return None
    return int(strides[0]), int(pads[0]), depthwise


def deconvolution(graph: Graph, node: onnx.NodeProto, source: Tensor, integers: str) -> Convolution | None:
    """A transposed 2x2 convolution of stride 2 as a 1x1 convolution with four blocks of outputs, one per pixel of the 2x2 cell."""
    found = attributes(node)
    shape = (found.get("kernel_shape"), found.get("strides"), found.get("group", 1))
    plain = not any(found.get("pads", [])) and not any(found.get("output_padding", [])) and found.get("auto_pad", "NOTSET") == "NOTSET"
    bias = graph.real(node.input[2]) if len(node.input) > 2 else None
    quantized, real = graph.quantized.get(node.input[1]), graph.real(node.input[1])
    if shape != ([2, 2], [2, 2], 1) or not plain or real is None or (len(node.input) > 2 and bias is None):
        return None
    scale = None
    if source.number.dtype == integers and quantized is not None and quantized.axis == 1 and quantized.integers.min() >= -127:
        real, scale = quantized.integers, np.tile(np.broadcast_to(quantized.scale, quantized.integers.shape[1:2]), 4).astype(np.float32)
    elif not source.number.is_float:
        return None
    inputs, outputs = real.shape[:2]
    weight = np.ascontiguousarray(real.transpose(2, 3, 1, 0).reshape(4 * outputs, inputs, 1, 1))
    whole = np.zeros(outputs, np.float32) if bias is None else bias.astype(np.float32)
    return Convolution(weight, np.tile(whole, 4), scale, 1, 0, depthwise=False)


def conv_step(node: onnx.NodeProto, found: Convolution, source: Tensor, ending: Tail, out: Tensor) -> ConvStep:
    """The step of a convolution: biases and multipliers in the units of its sums."""
    if found.scale is None:
        bias, multiplier = found.bias, None
    else:
        unit = np.float32(source.number.scale) * found.scale  # as the runtimes compute it: in float32, in this order
        bias = _integer_bias(found, unit, source.number.zero)
        multiplier = (unit if ending.activation in CURVED else unit / np.float32(out.number.scale)).astype(np.float32)
    return ConvStep(
        name=node.name,
        inputs=(source,),
        out=out,
        weight=found.weight,
        bias=bias,
        multiplier=multiplier,
        stride=found.stride,
        pad=found.pad,
        depthwise=found.depthwise,
        activation=ending.activation,
        grid=out.number,
    )


def _integer_bias(found: Convolution, unit: NDArray[np.float32], zero: int) -> NDArray[np.int32]:
    """The bias in steps of the sums, without what the input's zero point adds to them."""
    bias = np.rint(found.bias.astype(np.float64) / unit.astype(np.float64))
    limit = np.iinfo(np.int32)
    sums = bias - zero * found.weight.astype(np.int64).sum((1, 2, 3))
    return np.asarray(np.clip(sums, limit.min, limit.max), np.int32)


def doubling(graph: Graph, node: onnx.NodeProto) -> Mode | None:
    """The mode of a Resize that doubles height and width as the kernels do."""
    before, after = graph.shapes[node.input[0]], graph.shapes[node.output[0]]
    if len(before) != 4 or after != (*before[:2], 2 * before[2], 2 * before[3]):
        return None
    found = attributes(node)
    where = found.get("coordinate_transformation_mode", "half_pixel")
    mode = found.get("mode", "nearest")
    if mode == "linear":
        return "linear" if where == "half_pixel" else None
    rounding = found.get("nearest_mode", "round_prefer_floor")
    return "nearest" if mode == "nearest" and (where, rounding) in _NEAREST else None


_NEAREST = {
    ("asymmetric", "floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"),
}
