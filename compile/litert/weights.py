"""A convolution's constants as .tflite has them: channel-last, and in TensorFlow's order of channels before a depth-to-space."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compile.litert.graph import Graph, Scale, attributes

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]

DENSE, DEPTHWISE, TRANSPOSED = "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"


def kind_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
    """Operator of a convolution whose weight has this shape."""
    if node.op_type == "ConvTranspose":
        return TRANSPOSED
    return DEPTHWISE if int(attributes(node).get("group", 1)) == shape[0] > 1 and shape[1] == 1 else DENSE


def channel_last(weight: Array, kind: str) -> Array:
    """[O, I, k, k] -> [O, k, k, I]; depthwise [O, 1, k, k] -> [1, k, k, O]; transposed [I, O, k, k] -> [O, k, k, I]."""
    axes = {DENSE: (0, 2, 3, 1), DEPTHWISE: (1, 2, 3, 0), TRANSPOSED: (1, 2, 3, 0)}[kind]
    return np.ascontiguousarray(weight.transpose(axes))


def output_axis(kind: str) -> int:
    """Where the output channels are after ``channel_last``."""
    return 3 if kind == DEPTHWISE else 0


def shuffled_order(channels: int, block: int) -> NDArray[np.intp]:
    """Output channels in TensorFlow's order (position in the cell slow) out of PyTorch's (position in the cell fast)."""
    return np.arange(channels).reshape(-1, block * block).T.reshape(-1)


def order_of(graph: Graph, node: onnx.NodeProto) -> NDArray[np.intp] | None:
    """Order of a convolution's output channels in the .tflite; None where it stays.

    A pixel-shuffle (DepthToSpace of mode CRD) has its channels in another order than DEPTH_TO_SPACE. Where a convolution makes them,
    its filters change places instead, which costs nothing.
    """
    reader = graph.only_consumer(graph.tail(node).output)
    if reader is None or not is_pixel_shuffle(reader):
        return None
    return shuffled_order(graph.shapes[node.output[0]][1], int(attributes(reader)["blocksize"]))


def is_pixel_shuffle(node: onnx.NodeProto) -> bool:
    """Whether a node is PyTorch's pixel-shuffle."""
    return node.op_type == "DepthToSpace" and attributes(node).get("mode", b"DCR") == b"CRD"


def in_order(values: Array, axis: int, order: NDArray[np.intp] | None) -> Array:
    """The slices of an array along an axis in another order."""
    return values if order is None else np.take(values, order, axis)


def placed(scale: Scale, kind: str, order: NDArray[np.intp] | None) -> Scale:
    """A weight's scale as the .tflite has it."""
    return replace(scale, scale=in_order(np.atleast_1d(scale.scale), 0, order), axis=output_axis(kind))
