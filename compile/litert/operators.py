"""How each operator of the source is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compile.litert.convolution import convolution
from compile.litert.graph import Graph, Scale, Tail, attributes
from compile.litert.translate import Handler, Translator, refusal, unit_scale
from compile.litert.weights import is_pixel_shuffle, order_of

if TYPE_CHECKING:
    import onnx

DOUBLE = 4
"""Copies that DEPTH_TO_SPACE by 2 turns into a nearest-neighbour enlargement by 2."""


def _quantize(to: Translator, node: onnx.NodeProto) -> None:
    scale = to.graph.scale_of(node)
    dequantize = to.graph.consumers[node.output[0]][0]
    to.int8_tensors[dequantize.output[0]] = (to.int8(node.input[0], scale), scale)
    to.settle(Tail(dequantize.output[0], nodes=[dequantize]))


def _sum(to: Translator, node: onnx.NodeProto) -> None:
    tail = to.graph.tail(node)
    scales = [to.scale(name) for name in node.input]
    if all(scales) and tail.scale is not None and tail.activation != "HardSwish":
        inputs = [to.int8_tensors[name][0] for name in node.input]
        to.emit_int8("ADD", inputs, node, tail, tail.scale)
    else:
        to.emit_float("ADD", [to.float(name) for name in node.input], node, tail)


def _product(to: Translator, node: onnx.NodeProto) -> None:
    tail = to.graph.tail(node)
    scales = [to.scale(name) or _gate_scale(to, name) for name in node.input]
    if all(scales) and any(to.scale(name) for name in node.input) and tail.scale is not None and not tail.activation:
        inputs = [to.int8(name, scale) for name, scale in zip(node.input, scales, strict=True) if scale]
        to.emit_int8("MUL", inputs, node, tail, tail.scale)
    else:
        to.emit_float("MUL", [to.float(name) for name in node.input], node, tail)


def _gate_scale(to: Translator, name: str) -> Scale | None:
    bounds = to.graph.bounds(name)
    return unit_scale(f"{name}.int8", *bounds) if bounds and bounds[0] <= 0 <= bounds[1] else None


def _concatenation(to: Translator, node: onnx.NodeProto) -> None:
    tail = to.graph.tail(node)
    if int(attributes(node)["axis"]) not in (1, -3):
        raise refusal(node, "joins along another axis than the channels")
    scales = [to.scale(name) for name in node.input]
    if tail.scale is not None and all(s is not None and s.same(tail.scale) for s in scales):
        to.emit_int8("CONCATENATION", [to.int8_tensors[n][0] for n in node.input], node, tail, tail.scale, axis=3)
    else:
        to.emit_float("CONCATENATION", [to.float(n) for n in node.input], node, tail, axis=3)


def _moved(to: Translator, node: onnx.NodeProto, kind: str, **options: Any) -> None:
    """Write an operator that keeps the scale: int8 where its input is, or where it is rounded next."""
    tail = to.graph.tail(node)
    here = to.scale(node.input[0])
    if here is None and tail.scale is not None and not tail.activation:
        to.emit_int8(kind, [to.int8(node.input[0], _inner(tail.scale))], node, tail, tail.scale, **options)
    elif here is not None and not tail.activation and (tail.scale is None or tail.scale.same(here)):
        named = tail.scale or _inner(here, node.output[0])
        to.emit_int8(kind, [to.int8_tensors[node.input[0]][0]], node, tail, named, **options)
    else:
        to.emit_float(kind, [to.float(node.input[0])], node, tail, **options)


def _inner(scale: Scale, name: str = "") -> Scale:
    return Scale(name or f"{scale.name}.before", scale.scale, scale.zero)


def _space_to_depth(to: Translator, node: onnx.NodeProto) -> None:
    _moved(to, node, "SPACE_TO_DEPTH", blockSize=int(attributes(node)["blocksize"]))


def _depth_to_space(to: Translator, node: onnx.NodeProto) -> None:
    if is_pixel_shuffle(node):
        maker = to.graph.producers.get(node.input[0])
        while maker is not None and maker.op_type not in ("Conv", "ConvTranspose"):
            maker = to.graph.producers.get(maker.input[0])
        if maker is None or order_of(to.graph, maker) is None or to.graph.only_consumer(to.graph.tail(maker).output) is not node:
            raise refusal(node, "shuffles what no convolution made")
    _moved(to, node, "DEPTH_TO_SPACE", blockSize=int(attributes(node)["blocksize"]))


def _resize(to: Translator, node: onnx.NodeProto) -> None:
    facts = attributes(node)
    mode, transform = facts["mode"], facts.get("coordinate_transformation_mode", b"half_pixel")
    (_, _, height, width), (_, _, high, wide) = to.graph.shapes[node.input[0]], to.graph.shapes[node.output[0]]
    if mode == b"linear" and transform == b"half_pixel":
        size = to.writer.constant(f"{node.name}.size", np.asarray([high, wide], np.int32))
        _resized(to, node, size)
    elif mode == b"nearest" and transform == b"asymmetric" and (high, wide) == (2 * height, 2 * width):
        _doubled(to, node)
    else:
        raise refusal(node, f"enlarges by {mode.decode()} ({transform.decode()})")


def _resized(to: Translator, node: onnx.NodeProto, size: int) -> None:
    tail = to.graph.tail(node)
    here = to.scale(node.input[0])
    if here is not None and tail.scale is not None and tail.scale.same(here) and not tail.activation:
        inputs = [to.int8_tensors[node.input[0]][0], size]
        to.emit_int8("RESIZE_BILINEAR", inputs, node, tail, tail.scale, halfPixelCenters=True)
    else:
        to.emit_float("RESIZE_BILINEAR", [to.float(node.input[0]), size], node, tail, halfPixelCenters=True)


def _doubled(to: Translator, node: onnx.NodeProto) -> None:
    """Nearest neighbour by 2 as four copies of the channels, then depth to space: XNNPACK has no operator for it."""
    name = node.input[0]
    found = to.int8_tensors.get(name)
    source, scale = found or (to.float(name), None)
    shape = to.shape(name)
    inner = None if scale is None else _inner(scale, f"{node.output[0]}.copies")
    copies = to.writer.tensor(f"{node.output[0]}.copies", (*shape[:3], DOUBLE * shape[3]), inner)
    to.writer.operator("CONCATENATION", [source] * DOUBLE, copies, axis=3)
    tail = to.graph.tail(node)
    if scale is None:
        to.emit_float("DEPTH_TO_SPACE", [copies], node, tail, blockSize=2)
    elif tail.activation or not (tail.scale is None or tail.scale.same(scale)):
        raise refusal(node, "enlarges int8 to another scale")
    else:
        to.emit_int8("DEPTH_TO_SPACE", [copies], node, tail, tail.scale or _inner(scale, node.output[0]), blockSize=2)


def _mean(to: Translator, node: onnx.NodeProto) -> None:
    facts = attributes(node)
    axes = [2, 3] if node.op_type == "GlobalAveragePool" else sorted(a % 4 for a in facts.get("axes", ()))
    if axes != [2, 3] or not facts.get("keepdims", 1):
        raise refusal(node, "averages over other axes than height and width")
    where = to.writer.constant("height and width", np.asarray([1, 2], np.int32))
    to.emit_float("MEAN", [to.float(node.input[0]), where], node, to.graph.tail(node), keepDims=True)


def _plain(kind: str) -> Handler:
    def write(to: Translator, node: onnx.NodeProto) -> None:
        to.emit_float(kind, [to.float(node.input[0])], node, to.graph.tail(node))

    return write


def _identity(to: Translator, node: onnx.NodeProto) -> None:
    source, result = node.input[0], node.output[0]
    if source in to.int8_tensors:
        to.int8_tensors[result] = to.int8_tensors[source]
    else:
        to.float_tensors[result] = to.float(source)


def _clip(to: Translator, node: onnx.NodeProto) -> None:
    if to.graph.activation(node) != "Relu6":
        raise refusal(node, "clips to another range than [0, 6]")
    _plain("RELU6")(to, node)


def _leaky(to: Translator, node: onnx.NodeProto) -> None:
    to.emit_float("LEAKY_RELU", [to.float(node.input[0])], node, to.graph.tail(node), alpha=float(attributes(node).get("alpha", 0.01)))


OPERATORS: dict[str, Handler] = {
    "Conv": convolution,
    "ConvTranspose": convolution,
    "QuantizeLinear": _quantize,
    "Add": _sum,
    "Mul": _product,
    "Concat": _concatenation,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _depth_to_space,
    "Resize": _resize,
    "GlobalAveragePool": _mean,
    "ReduceMean": _mean,
    "Identity": _identity,
    "Relu": _plain("RELU"),
    "HardSwish": _plain("HARD_SWISH"),
    "Sigmoid": _plain("LOGISTIC"),
    "Clip": _clip,
    "LeakyRelu": _leaky,
}
"""Operator of ONNX -> how it is written."""


def translate(graph: Graph, half: bool = False) -> bytes:
    """Write a graph as .tflite.

    Args:
        graph: of fixed size.
        half: store the weights of convolutions in fp16.

    Raises:
        StageFailed: an operator that has no form here.

    """
    to = Translator(graph, half)
    for node in graph.nodes:
        if id(node) in to.done or node.op_type == "Constant" or node.output[0] in graph.weights:
            continue
        if node.op_type not in OPERATORS:
            raise refusal(node, "has no form in a .tflite here")
        OPERATORS[node.op_type](to, node)
    return to.file()
