"""Checks a written Q/DQ file against the rules of TensorRT's explicit quantization, before a board has to.

The rules (TensorRT developer guide, "Working with Quantized Types"): signed 8 bit with zero points 0, constant positive scales, one scale
per activation tensor, per-channel weights along the output channels, weights quantized offline, Q/DQ on both inputs of a convolution or on
neither, batch normalisation folded, and Q/DQ behind an activation, not between it and its convolution, which would stop their fusion.
Beyond them: both inputs of a residual sum, and one scale before and behind what only moves or interpolates values. What must be int8 is
counted, so that a file with nothing, or less, in int8 cannot pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StageFailed
from quantize.scheme import WEIGHTS

if TYPE_CHECKING:
    import onnx

_CONVS = ("Conv", "ConvTranspose")
_SAME_SCALE = ("Concat", "Resize", "MaxPool")
_ACTIVATIONS = ("Relu", "Clip", "HardSwish", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid")
_SHOWN = 3


class QdqGraph:
    """A Q/DQ file with its constants and connections at hand; also what tests and reports count from."""

    def __init__(self, path: Path) -> None:
        import onnx
        from onnx import numpy_helper

        self.path = path
        self.model = onnx.load(str(path))
        self.nodes = list(self.model.graph.node)
        self.constants: dict[str, NDArray[Any]] = {i.name: numpy_helper.to_array(i) for i in self.model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        self.inputs = {i.name for i in self.model.graph.input}
        self.producers = {out: node for node in self.nodes for out in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    @property
    def opset(self) -> int:
        """Operator set of the standard domain."""
        return next(int(d.version) for d in self.model.opset_import if d.domain in ("", "ai.onnx"))

    def of_type(self, *types: str) -> list[onnx.NodeProto]:
        """The nodes of these operators."""
        return [n for n in self.nodes if n.op_type in types]

    def dequantizer(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that produces tensor ``name``, if one does."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def quantized_convs(self) -> list[onnx.NodeProto]:
        """Convolutions whose input and weight both come from a DequantizeLinear."""
        return [n for n in self.of_type(*_CONVS) if all(self.dequantizer(i) is not None for i in n.input[:2])]

    def quantized_operators(self) -> Counter[str]:
        """What runs in int8, by operator: depthwise convolutions apart; other operators when they read and write int8 alone."""
        found = Counter("depthwise" if self._is_depthwise(n) else n.op_type for n in self.quantized_convs())
        found.update(n.op_type for n in self.of_type("Add", "Concat", "Resize", "MaxPool") if self._in_int8(n))
        return found

    def _is_depthwise(self, conv: onnx.NodeProto) -> bool:
        groups = next((int(a.i) for a in conv.attribute if a.name == "group"), 1)
        weight = self.dequantizer(conv.input[1])
        return groups > 1 and weight is not None and groups == len(self.constants.get(weight.input[0], ()))

    def _in_int8(self, node: onnx.NodeProto) -> bool:
        reads = node.input[:1] if node.op_type == "Resize" else node.input
        readers = self.consumers.get(node.output[0], [])
        return all(self.dequantizer(i) is not None for i in reads) and all(self._rounds(r) for r in readers) and bool(readers)

    def _rounds(self, reader: onnx.NodeProto) -> bool:
        behind = self.consumers.get(reader.output[0], []) if reader.op_type in _ACTIVATIONS else [reader]
        return bool(behind) and all(n.op_type == "QuantizeLinear" for n in behind)

    def scale(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """Scale of a Q or DQ node; None when it is computed."""
        return self.constants.get(node.input[1])

    def zero_point(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """Zero point of a Q or DQ node; None when it is absent or computed."""
        return self.constants.get(node.input[2]) if len(node.input) > 2 else None


def lint(
    path: Path,
    opset: int,
    convs: int,
    partial: bool = False,
    operators: Mapping[str, int] | None = None,
    unsigned: bool = False,
) -> None:
    """Raise unless TensorRT would take the file as explicitly quantized int8, but for the zero points where ``unsigned`` allows them.

    Args:
        path: the signed flavour.
        opset: newest operator set that the board's TensorRT reads.
        convs: how many convolutions must be quantized; at least 1.
        partial: some tensors are float on purpose, so a sum may have one quantized input.
        operators: how many of Add, Concat and Resize must read and write int8.
        unsigned: the file is for CPUs alone, and tensors that cannot be negative have zero points of -128.

    Raises:
        StageFailed: naming the first few faults and how many there are.
    """
    graph = QdqGraph(path)
    faults = [*_faults(graph, opset, convs, partial, (0, -128) if unsigned else (0,)), *_count_faults(graph, operators or {}, partial)]
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        what = f"{'a runtime' if unsigned else 'TensorRT'} would not run it as int8: {'; '.join(faults[:_SHOWN])}{more}"
        raise StageFailed(str(path), what, "please report it with the network's configuration")


def _faults(graph: QdqGraph, opset: int, convs: int, partial: bool, zeros: Collection[int]) -> Iterator[str]:
    if graph.opset > opset:
        yield f"opset {graph.opset} is above {opset}"
    found = len(graph.quantized_convs())
    if found != convs or not found:
        yield f"{found} quantized convolutions where {max(convs, 1)} are expected"
    for node in graph.of_type("QuantizeLinear", "DequantizeLinear"):
        yield from _qdq_faults(graph, node, zeros)
    for node in graph.of_type(*_CONVS):
        yield from _conv_faults(graph, node)
        yield from _fusion_faults(graph, node)
    if not partial:
        for node in graph.of_type("Add"):
            yield from _add_faults(graph, node)
    for node in graph.of_type(*_SAME_SCALE):
        yield from _same_scale_faults(graph, node)


def _qdq_faults(graph: QdqGraph, node: onnx.NodeProto, zeros: Collection[int]) -> Iterator[str]:
    scale, zero = graph.scale(node), graph.zero_point(node)
    wrong = [] if zero is None else [z for z in zero.flat if z not in ((0,) if node.name.endswith(".weight.dequantize") else zeros)]
    if scale is None:
        yield f"{node.name} computes its scale"
    elif not (np.isfinite(scale).all() and (scale > 0).all()):
        yield f"{node.name} has a scale that is not positive"
    if zero is None:
        yield f"{node.name} has no constant zero point, so it is unsigned"
    elif zero.dtype != np.int8:
        yield f"{node.name} is {zero.dtype}"
    elif wrong:
        yield f"{node.name} has zero point {wrong[0]}"
    if node.op_type == "QuantizeLinear":
        if node.input[0] in graph.constants:
            yield f"{node.name} quantizes a constant at run time"
        if any(c.op_type != "DequantizeLinear" for c in graph.consumers.get(node.output[0], [])):
            yield f"the integers of {node.name} do not go to a DequantizeLinear"


def _conv_faults(graph: QdqGraph, node: onnx.NodeProto) -> Iterator[str]:
    x, w = (graph.dequantizer(name) for name in node.input[:2])
    if (x is None) != (w is None):
        yield f"{node.name} has a quantized {'weight but a float input' if x is None else 'input but a float weight'}"
    if w is None:
        return
    integers, scale = graph.constants.get(w.input[0]), graph.scale(w)
    axis = 0 if node.op_type == "Conv" else 1
    if integers is None or integers.dtype != np.int8:
        yield f"the weight of {node.name} is not stored as int8"
    elif integers.min() < WEIGHTS.low:
        yield f"the weight of {node.name} uses {integers.min()}, below {WEIGHTS.low}"
    elif scale is None or scale.shape != (integers.shape[axis],) or _axis(w) != axis:
        yield f"the weight of {node.name} is not quantized per output channel (axis {axis})"
    if x is not None and len(_scales(graph, x)) != 1:
        yield f"the input of {node.name} is not quantized per tensor"
    if len(node.input) > 2 and node.input[2] not in graph.constants:
        yield f"the bias of {node.name} is not a float constant"


def _fusion_faults(graph: QdqGraph, node: onnx.NodeProto) -> Iterator[str]:
    if graph.dequantizer(node.input[0]) is None:
        return
    for reader in graph.consumers.get(node.output[0], []):
        if reader.op_type == "BatchNormalization":
            yield f"the batch normalisation behind {node.name} is not folded"
        if reader.op_type == "QuantizeLinear":
            behind = [n for dq in graph.consumers.get(reader.output[0], []) for n in graph.consumers.get(dq.output[0], [])]
            if behind and all(n.op_type in _ACTIVATIONS for n in behind):
                yield f"{reader.name} rounds between {node.name} and its activation"


def _count_faults(graph: QdqGraph, operators: Mapping[str, int], partial: bool) -> Iterator[str]:
    """In a partial file a sum counts that reads int8 and whose activation writes it, though its own tensor is float: one may be more."""
    found = graph.quantized_operators()
    for op, count in operators.items():
        if found[op] < count or (found[op] > count and not partial):
            yield f"{found[op]} int8 {op} where {count} are expected"


def _add_faults(graph: QdqGraph, node: onnx.NodeProto) -> Iterator[str]:
    if any(name in graph.constants or name in graph.inputs for name in node.input):
        return
    quantized = [graph.dequantizer(name) is not None for name in node.input]
    if any(quantized) and not all(quantized):
        yield f"{node.name} adds a quantized and a float tensor"


def _same_scale_faults(graph: QdqGraph, node: onnx.NodeProto) -> Iterator[str]:
    names = node.input if node.op_type == "Concat" else node.input[:1]
    neighbours = [graph.dequantizer(name) for name in names if name not in graph.constants]
    neighbours += [c if c.op_type == "QuantizeLinear" else None for c in graph.consumers.get(node.output[0], [])]
    present = [n for n in neighbours if n is not None]
    if present and (len(present) != len(neighbours) or len({tuple(_scales(graph, n)) for n in present}) > 1):
        yield f"{node.name} has not one scale before and behind it"


def _scales(graph: QdqGraph, node: onnx.NodeProto) -> list[float]:
    scale = graph.scale(node)
    return [] if scale is None else [float(s) for s in scale.flat]


def _axis(node: onnx.NodeProto) -> int:
    return next((int(a.i) for a in node.attribute if a.name == "axis"), 1)
