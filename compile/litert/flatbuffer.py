"""Writing a .tflite file: tensors and operators of one subgraph, through the schema that comes with the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compile.litert.graph import Scale

Array = NDArray[Any]

ALIGNMENT = 16
"""Of constants in the file, in bytes, as the schema asks for."""

_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "MEAN": "ReducerOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "PAD": "PadOptions",
    "QUANTIZE": "QuantizeOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "HARD_SWISH": "HardSwishOptions",
    "LEAKY_RELU": "LeakyReluOptions",
}
"""Operator -> the table that holds its options; those that are not here have none."""

_VERSIONS = {
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "TRANSPOSE_CONV": (3, 3),
    "ADD": (1, 2),
    "MUL": (1, 2),
    "CONCATENATION": (1, 2),
    "RESIZE_BILINEAR": (3, 3),
    "MEAN": (1, 2),
    "SPACE_TO_DEPTH": (1, 2),
    "DEPTH_TO_SPACE": (1, 2),
    "PAD": (1, 2),
    "QUANTIZE": (1, 2),
    "DEQUANTIZE": (3, 2),
}
"""Operator -> the version that a runtime must know, where its first input is float, and where it is int8; 1 for the others."""


class Writer:
    """Collects one subgraph."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.graph: Any = schema.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []
        self.codes: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self._constants: dict[tuple[Any, ...], int] = {}

    def tensor(self, name: str, shape: Sequence[int], scale: Scale | None = None) -> int:
        """Add a computed tensor, int8 where it has a scale, else float32; returns its number."""
        return self._add(name, tuple(shape), "INT8" if scale else "FLOAT32", 0, scale)

    def constant(self, name: str, value: Array, scale: Scale | None = None) -> int:
        """Add a constant; one of the same name and content is used again."""
        value = np.ascontiguousarray(value)
        key = (name, value.tobytes(), value.shape, value.dtype.str, scale.scale.tobytes() if scale else b"")
        if key not in self._constants:
            buffer: Any = _aligned(self.schema)
            buffer.data = key[1]
            self.buffers.append(buffer)
            kind = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "int32": "INT32"}[value.dtype.name]
            self._constants[key] = self._add(name, value.shape, kind, len(self.buffers) - 1, scale)
        return self._constants[key]

    def operator(self, kind: str, inputs: Sequence[int], output: int, **options: Any) -> int:
        """Add an operator.

        Args:
            kind: name in the schema's BuiltinOperator.
            inputs: tensor numbers.
            output: tensor number.
            options: fields of its options table; activations and paddings by the schema's names.

        Returns:
            ``output``.

        """
        op: Any = self.schema.OperatorT()
        op.opcodeIndex = self._code(kind, inputs)
        op.inputs, op.outputs = list(inputs), [output]
        if kind in _OPTIONS:
            op.builtinOptionsType = getattr(self.schema.BuiltinOptions, _OPTIONS[kind])
            op.builtinOptions = getattr(self.schema, f"{_OPTIONS[kind]}T")()
            for field, value in options.items():
                setattr(op.builtinOptions, field, value)
        self.graph.operators.append(op)
        return output

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> bytes:
        """Return the file: its inputs and outputs by name, tensor numbers behind them."""
        import flatbuffers

        self.graph.inputs, self.graph.outputs = list(inputs.values()), list(outputs.values())
        model: Any = self.schema.ModelT()
        model.version, model.description = 3, "image deblurring"
        model.subgraphs, model.buffers, model.operatorCodes = [self.graph], self.buffers, self.codes
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _add(self, name: str, shape: tuple[int, ...], kind: str, buffer: int, scale: Scale | None) -> int:
        tensor: Any = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
        tensor.type = getattr(self.schema.TensorType, kind)
        if scale is not None:
            found: Any = self.schema.QuantizationParametersT()
            scales = np.atleast_1d(scale.scale)
            found.scale, found.zeroPoint = scales.tolist(), [scale.zero] * len(scales)
            found.quantizedDimension = scale.axis
            tensor.quantization = found
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _code(self, kind: str, inputs: Sequence[int]) -> int:
        number = getattr(self.schema.BuiltinOperator, kind)
        first = self.graph.tensors[inputs[1 if kind == "TRANSPOSE_CONV" else 0]]
        version = _VERSIONS.get(kind, (1, 1))[first.type == self.schema.TensorType.INT8]
        for index, code in enumerate(self.codes):
            if (code.builtinCode, code.version) == (number, version):
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = number, version
        code.deprecatedBuiltinCode = min(number, 127)  # what readers from before the field grew look at
        self.codes.append(code)
        return len(self.codes) - 1

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
        signature: Any = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = ([self._mapped(*item) for item in side.items()] for side in (inputs, outputs))
        return signature

    def _mapped(self, name: str, number: int) -> Any:
        entry: Any = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        return entry


def _aligned(schema: Any) -> Any:
    """Return a buffer that packs itself on a multiple of ``ALIGNMENT``; the generated one packs wherever it falls."""

    class Aligned(schema.BufferT):  # type: ignore[misc] # the schema is known at run time only
        def Pack(self, builder: Any) -> Any:  # noqa: N802 # the generated code calls it so
            size = len(self.data)
            builder.StartVector(1, size, ALIGNMENT)
            builder.head -= size
            builder.Bytes[builder.head : builder.head + size] = self.data
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    return Aligned()
