"""Convolutions: int8 where input, weight and output are, else float."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.litert.graph import Scale, Tail, attributes
from compile.litert.translate import Translator, refusal, unit_scale
from compile.litert.weights import DEPTHWISE, TRANSPOSED, channel_last, in_order, kind_of, order_of, output_axis, placed

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

HARD_SWISH_FROM = -3.0
"""Below, hard-swish is 0: int8 need not tell the values there apart."""


def convolution(to: Translator, node: onnx.NodeProto) -> None:
    """Write Conv or ConvTranspose."""
    tail = to.graph.tail(node)
    weight = to.graph.weights.get(node.input[1])
    here = to.scale(node.input[0])
    if here is None or weight is None or tail.scale is None or separate(node, tail):
        _float(to, node, tail)
    elif tail.activation == "HardSwish":
        _hard_swish(to, node, tail, tail.scale)
    else:
        _int8(to, node, tail, tail.scale)


def separate(node: onnx.NodeProto, tail: Tail) -> bool:
    """Whether a convolution cannot compute the activation behind it."""
    return node.op_type == "ConvTranspose" and bool(tail.activation)


def _float(to: Translator, node: onnx.NodeProto, tail: Tail) -> None:
    weight, bias = to.graph.floats(node.input[1]), _bias(to, node)
    if weight is None:
        raise refusal(node, "has weights that are computed")
    kind, order = kind_of(node, weight.shape), order_of(to.graph, node)
    laid = in_order(channel_last(weight, kind), output_axis(kind), order)
    quantized = to.graph.weights.get(node.input[1])
    name = quantized.scale.name if quantized else node.input[1]
    constants = [_stored(to, name, laid), _stored(to, f"{node.name}.bias", in_order(bias, 0, order))]
    inputs, options = _arranged(to, node, kind, to.float(node.input[0]), constants)
    to.emit_float(kind, inputs, node, tail, **options)


def _stored(to: Translator, name: str, value: NDArray[np.float32]) -> int:
    """A float constant, in fp16 with a DEQUANTIZE behind it where weights are halves."""
    if not to.half:
        return to.writer.constant(name, value.astype(np.float32))
    half = to.writer.constant(name, value.astype(np.float16))
    return to.writer.operator("DEQUANTIZE", [half], to.writer.tensor(f"{name}.float", value.shape))


def _int8(to: Translator, node: onnx.NodeProto, tail: Tail, scale: Scale) -> None:
    weight, (source, here) = to.graph.weights[node.input[1]], to.int8_tensors[node.input[0]]
    kind, order = kind_of(node, weight.integers.shape), order_of(to.graph, node)
    axis, scales = output_axis(kind), placed(weight.scale, kind, order)
    integers = in_order(channel_last(weight.integers, kind), axis, order)
    product = Scale(f"{weight.scale.name}.bias", (here.scale * scales.scale).astype(np.float32), 0)
    rounded = np.rint(in_order(_bias(to, node), 0, order).astype(np.float64) / product.scale).astype(np.int32)
    constants = [to.writer.constant(weight.scale.name, integers, scales), to.writer.constant(product.name, rounded, product)]
    inputs, options = _arranged(to, node, kind, source, constants, here)
    to.emit_int8(kind, inputs, node, tail, scale, **options)


def _bias(to: Translator, node: onnx.NodeProto) -> NDArray[np.float32]:
    found = to.graph.floats(node.input[2]) if len(node.input) > 2 else None
    return np.zeros(to.graph.shapes[node.output[0]][1], np.float32) if found is None else found


def _hard_swish(to: Translator, node: onnx.NodeProto, tail: Tail, scale: Scale) -> None:
    """Write a convolution and hard-swish: x * h with h = clip(x / 6 + 1/2, 0, 1).

    x is rounded to int8 over [-3, the x of the largest output], h over [0, 1].
    """
    linear = unit_scale(f"{scale.name}.linear", HARD_SWISH_FROM, _before_hard_swish(float(scale.scale) * (127 - scale.zero)))
    _int8(to, node, Tail(node.output[0]), linear)
    x, _ = to.int8_tensors[node.output[0]]
    gate = _gate(to, node.output[0], x, linear)
    to.emit_int8("MUL", [x, gate], node, replace(tail, activation=""), scale)


def _before_hard_swish(y: float) -> float:
    """The x > 0 whose hard-swish is y."""
    return y if y >= -HARD_SWISH_FROM else (math.sqrt(9 + 24 * y) - 3) / 2


def _gate(to: Translator, name: str, x: int, linear: Scale) -> int:
    """Write clip(x / 6 + 1/2, 0, 1): the product only changes what the integers mean, the sum saturates where the clip is."""
    shape = to.shape(name)
    sixth = Scale(f"{name}.sixth", np.asarray(1 / (6 * 127), np.float32), 0)
    half = Scale(f"{name}.half", np.asarray(0.5 / 127, np.float32), 0)
    share = Scale(f"{name}.share", (linear.scale / 6).astype(np.float32), linear.zero)
    gate = unit_scale(f"{name}.gate", 0.0, 1.0)
    sixth_, half_ = (to.writer.constant(s.name, np.full((1, 1, 1, 1), 127, np.int8), s) for s in (sixth, half))
    product = to.writer.operator("MUL", [x, sixth_], to.writer.tensor(share.name, shape, share))
    return to.writer.operator("ADD", [product, half_], to.writer.tensor(gate.name, shape, gate))


def _arranged(
    to: Translator, node: onnx.NodeProto, kind: str, source: int, constants: list[int], scale: Scale | None = None
) -> tuple[list[int], dict[str, Any]]:
    """Inputs and options of the operator; where TensorFlow's own padding is another, the input is padded before it."""
    facts, padding = attributes(node), to.writer.schema.Padding
    (kernel_h, kernel_w), (stride_h, stride_w) = facts["kernel_shape"], facts.get("strides", (1, 1))
    dilation_h, dilation_w = facts.get("dilations", (1, 1))
    pads = tuple(facts.get("pads", (0, 0, 0, 0)))
    options: dict[str, Any] = {"strideH": stride_h, "strideW": stride_w, "padding": padding.VALID}
    if kind == TRANSPOSED:
        if any(pads) or any(facts.get("output_padding", ())) or (dilation_h, dilation_w) != (1, 1) or facts.get("group", 1) != 1:
            raise refusal(node, "is padded, dilated or grouped")
        size = to.writer.constant(f"{node.name}.size", np.asarray(to.shape(node.output[0]), np.int32))
        return [size, constants[0], source, constants[1]], options
    options |= {"dilationHFactor": dilation_h, "dilationWFactor": dilation_w}
    if kind == DEPTHWISE:
        options["depthMultiplier"] = to.shape(node.output[0])[3] // to.shape(node.input[0])[3]
    around = (dilation_h * (kernel_h - 1) // 2, dilation_w * (kernel_w - 1) // 2) * 2
    if any(pads) and (stride_h, stride_w) == (1, 1) and pads == around:
        options["padding"] = padding.SAME
    elif any(pads):
        source = _padded(to, node, source, pads, scale)
    return [source, *constants], options


def _padded(to: Translator, node: onnx.NodeProto, source: int, pads: tuple[int, ...], scale: Scale | None) -> int:
    batch, height, width, channels = to.shape(node.input[0])
    top, left, bottom, right = pads
    amounts = to.writer.constant("pads", np.asarray([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
    inner = None if scale is None else replace(scale, name=f"{node.name}.padded")
    padded = to.writer.tensor(f"{node.name}.padded", (batch, height + top + bottom, width + left + right, channels), inner)
    return to.writer.operator("PAD", [source, amounts], padded)
