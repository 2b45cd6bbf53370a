"""Reading a .tflite file back: its operators, scales and integers, and how they compare with the model folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

    from compile.litert.graph import Graph
    from quantize.artifact import ModelFolder

Array = NDArray[Any]


class Readback:
    """A file as its schema describes it.

    Args:
        path: the .tflite.

    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model: Any = schema.ModelT.InitFromPackedBuf(path.read_bytes())
        self._names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
        graph = self._model.subgraphs[0]
        self._types, self._operators = schema.TensorType, graph.operators
        self._numbered, self._tensors = graph.tensors, {t.name.decode(): t for t in graph.tensors}

    def operators(self) -> dict[str, int]:
        """Operators by name, with how many there are."""
        codes = [self._names[code.builtinCode] for code in self._model.operatorCodes]
        return dict(sorted(Counter(codes[op.opcodeIndex] for op in self._operators).items()))

    def scale(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.int64], int] | None:
        """Scale, zero point and axis of a tensor; None when there is none of that name, or it has no scale."""
        found = getattr(self._tensors.get(name), "quantization", None)
        if found is None or found.scale is None:
            return None
        return np.asarray(found.scale, np.float32), np.asarray(found.zeroPoint, np.int64), int(found.quantizedDimension)

    def constant(self, name: str) -> Array | None:
        """A constant, int8 or float32; None when there is none of that name."""
        tensor = self._tensors.get(name)
        data = None if tensor is None else self._model.buffers[tensor.buffer].data
        if tensor is None or data is None:
            return None
        kind = {self._types.INT8: np.int8, self._types.INT32: np.int32, self._types.FLOAT16: np.float16}.get(tensor.type, np.float32)
        found: Array = np.frombuffer(np.asarray(data, np.uint8).tobytes(), kind).reshape(tuple(tensor.shape))
        return found

    def computed(self, numbers: Iterable[int]) -> set[int]:
        """Those of the tensors that are no constants, by number."""
        return {int(i) for i in numbers if i >= 0 and self._model.buffers[self._numbered[int(i)].buffer].data is None}


def differences(path: Path, folder: ModelFolder) -> list[str]:
    """Compare a file with ``quantization.json`` and the integers of the Q/DQ file.

    Returns:
        One line for each tensor whose scale, zero point or integers differ or are not in the file.

    """
    found, scales = Readback(path), folder.scales()
    out = [f"activation {name}" for name, want in scales["activations"].items() if not _same_activation(found, name, want)]
    return [*out, *_weights(found, folder, scales["weights"])]


def _same_activation(found: Readback, name: str, want: Mapping[str, Any]) -> bool:
    """Zero points are -128 for what cannot be negative, else 0."""
    have = found.scale(name)
    zero = -128 if want["non_negative"] else 0
    return have is not None and have[0].tolist() == [np.float32(want["scale"])] and have[1].tolist() == [zero]


def in_integers(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a convolution of a Q/DQ file reads integers, has integer weights, and its result is rounded to integers.

    One that lacks any of these, or an activation that its operator cannot compute, is float in the .tflite.
    """
    from compile.litert.convolution import separate

    source, tail = graph.producers.get(node.input[0]), graph.tail(node)
    reads = source is not None and source.op_type == "DequantizeLinear" and node.input[1] in graph.weights
    return reads and tail.scale is not None and not separate(node, tail)


def _weights(found: Readback, folder: ModelFolder, wanted: Mapping[str, Any]) -> Iterator[str]:
    import onnx

    from compile.litert.graph import Graph
    from compile.litert.weights import channel_last, in_order, kind_of, order_of, output_axis

    graph = Graph(onnx.load(str(folder.qdq("s8"))))
    nodes = {graph.weights[n.input[1]].scale.name: n for n in graph.nodes if len(n.input) > 1 and n.input[1] in graph.weights}
    for name, want in wanted.items():
        have, node = found.scale(name), nodes[name]
        weight = graph.weights[node.input[1]]
        kind, order = kind_of(node, weight.integers.shape), order_of(graph, node)
        axis, constant = output_axis(kind), found.constant(name)
        scale = in_order(np.asarray(want["scale"], np.float32), 0, order)
        if constant is not None and constant.dtype == np.float32:
            if in_integers(graph, node):
                yield f"weight {name} is float, and its convolution is not in the network"
            elif not np.array_equal(constant, in_order(channel_last(weight.floats(), kind), axis, order)):
                yield f"values of weight {name}"
        elif have is None or not np.array_equal(have[0], scale) or have[1].any() or have[2] != axis:
            yield f"weight {name}"
        elif constant is None or not np.array_equal(constant, in_order(channel_last(weight.integers, kind), axis, order)):
            yield f"integers of weight {name}"
