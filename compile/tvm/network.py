"""From an ONNX graph, quantized or not, to steps: every node that a kernel covers, the others as float operators of TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compile.tvm.graph import Graph, attributes
from compile.tvm.kernels.tensors import Number
from compile.tvm.matching import Tail, conv_step, convolution, deconvolution, doubling, tail
from compile.tvm.steps import (
    AddStep,
    ConcatStep,
    FloatStep,
    FromPlainStep,
    GateStep,
    MeanStep,
    Network,
    Plain,
    ResizeStep,
    ShuffleAddStep,
    SpreadStep,
    Step,
    Tensor,
    ToPlainStep,
    UnshuffleStep,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx


def read_network(graph: Graph, activation: str, real: Number, *, kernels: bool = True) -> Network:
    """Read a network.

    Args:
        graph: of fixed size with one float32 image in and one out, float or Q/DQ.
        activation: "uint8" or "int8": the integers that the CPU's kernels take; a graph of the other kind is computed in float.
        real: how packed float tensors are held.
        kernels: False covers nothing.

    """
    return _Reader(graph, activation, real, kernels).read()


class _Reader:
    """Walks the nodes once, in order."""

    def __init__(self, graph: Graph, activation: str, real: Number, kernels: bool) -> None:
        self.graph, self.activation, self.real, self.kernels = graph, activation, real, kernels
        self.steps: list[Step] = []
        self.values: dict[str, Value] = {}
        self.done: set[str] = set()  # first outputs of nodes that an earlier step took with it
        self.covers: dict[str, Callable[[onnx.NodeProto], bool]] = {
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
            "Conv": self._conv,
            "ConvTranspose": self._deconv,
            "Add": self._add,
            "Concat": self._concat,
            "Resize": self._resize,
            "GlobalAveragePool": self._mean,
            "Mul": self._gate,
            "SpaceToDepth": self._unshuffle,
            "DepthToSpace": self._shuffle,
        }

    def read(self) -> Network:
        graph = self.graph
        source = Plain(graph.input, graph.shapes[graph.input])
        self.values[graph.input] = source
        for node in graph.nodes:
            if node.output[0] in self.done:
                continue
            cover = self.covers.get(node.op_type) if self.kernels else None
            if cover is None or not cover(node):
                self._float(node)
        result = self._plain(graph.output)  # may take a step of its own
        return Network(tuple(self.steps), (source,), result)

    def _plain(self, name: str) -> Plain:
        """A value in ONNX's layout, converted where it is packed."""
        value = self.values[name]
        if isinstance(value, Plain):
            return value
        shape = (1, value.channels, value.height, value.width)
        plain_name = f"{value.name}.plain"
        known = self.values.get(plain_name)
        if isinstance(known, Plain):
            return known
        out = Plain(plain_name, shape)
        self.steps.append(ToPlainStep(f"{value.name}.to_plain", (value,), out))
        self.values[plain_name] = out
        return out

    def _tensor(self, name: str) -> Tensor | None:
        value = self.values.get(name)
        return value if isinstance(value, Tensor) else None

    def _float(self, node: onnx.NodeProto) -> None:
        constants, inputs = {}, []
        for name in node.input:
            constant = self.graph.real(name)
            if constant is not None:
                constants[name] = constant
            elif name:
                inputs.append((name, self._plain(name)))
        renamed = _renamed(node, {name: plain.name for name, plain in inputs})
        out = Plain(node.output[0], self.graph.shapes[node.output[0]])
        unique = tuple({plain.name: plain for _, plain in inputs}.values())
        self.steps.append(FloatStep(node.name, unique, out, renamed, constants))
        self.values[node.output[0]] = out

    def _finish(self, ending: Tail, height: int, width: int, channels: int) -> Tensor:
        """The tensor that a step writes: quantized where the tail ends in integers."""
        self.done.update(ending.absorbed)
        out = Tensor(ending.name, height, width, channels, ending.number or self.real)
        self.values[ending.name] = out
        return out

    def _quantize(self, node: onnx.NodeProto) -> bool:
        number, source = self.graph.number(node), self.values.get(node.input[0])
        if number is None or source is None:
            return False
        height, width, channels = _image(self.graph.shapes[node.input[0]])
        out = Tensor(node.output[0], height, width, channels, number)
        step = ConcatStep if isinstance(source, Tensor) else FromPlainStep
        self.steps.append(step(node.name, (source,), out))
        self.values[node.output[0]] = out
        return True

    def _dequantize(self, node: onnx.NodeProto) -> bool:
        source = self._tensor(node.input[0])
        if source is None:
            return False
        self.values[node.output[0]] = source
        return True

    def _conv(self, node: onnx.NodeProto) -> bool:
        found = convolution(self.graph, node, self._tensor(node.input[0]), self.activation)
        if found is None:
            return False
        source = self._tensor(node.input[0]) or self._packed(node.input[0])
        if source is None:
            return False
        ending = tail(self.graph, node.output[0], activations=True)
        height, width, channels = _image(self.graph.shapes[node.output[0]])
        out = self._finish(ending, height, width, channels)
        self.steps.append(conv_step(node, found, source, ending, out))
        return True

    def _deconv(self, node: onnx.NodeProto) -> bool:
        source = self._tensor(node.input[0])
        found = None if source is None else deconvolution(self.graph, node, source, self.activation)
        channels = self.graph.shapes[node.output[0]][1]
        if source is None or found is None or channels % 4:
            return False
        ending = tail(self.graph, node.output[0], activations=True)
        out = self._finish(ending, 2 * source.height, 2 * source.width, channels)
        cells = Tensor(f"{out.name}.cells", source.height, source.width, 4 * channels, out.number)
        self.steps.append(conv_step(node, found, source, ending, cells))
        self.steps.append(SpreadStep(f"{node.name}.spread", (cells,), out))
        return True

    def _packed(self, name: str) -> Tensor | None:
        """A plain image as a float tensor."""
        source = self.values.get(name)
        if not isinstance(source, Plain) or len(source.shape) != 4 or source.shape[0] != 1:
            return None
        out = Tensor(f"{name}.packed", *_image(source.shape), self.real)
        self.steps.append(FromPlainStep(f"{name}.pack", (source,), out))
        self.values[name] = out
        self.values[f"{out.name}.plain"] = source
        return out

    def _add(self, node: onnx.NodeProto) -> bool:
        a, b = (self._tensor(name) for name in node.input)
        if a is None or b is None:
            tensor = a or b
            return tensor is not None and self._add_image(node, node, tensor, 1)
        if (a.height, a.width, a.channels) != (b.height, b.width, b.channels):
            return False
        ending = tail(self.graph, node.output[0], activations=False)
        out = self._finish(ending, a.height, a.width, a.channels)
        self.steps.append(AddStep(node.name, (a, b), out))
        return True

    def _shuffle(self, node: onnx.NodeProto) -> bool:
        source, add, found = self._tensor(node.input[0]), self.graph.only_user(node.output[0]), attributes(node)
        if source is None or add is None or add.op_type != "Add" or found.get("mode") != "CRD":
            return False
        return self._add_image(node, add, source, int(found["blocksize"]))

    def _add_image(self, last: onnx.NodeProto, add: onnx.NodeProto, source: Tensor, factor: int) -> bool:
        """The global residual: a plain image plus a tensor, ``last`` being what makes its addend."""
        images = [v for v in (self.values.get(name) for name in add.input) if isinstance(v, Plain)]
        shape = self.graph.shapes[add.output[0]]
        if len(images) != 1 or images[0].shape != shape or shape[1] * factor**2 != source.channels or shape[0] != 1:
            return False
        out = Plain(add.output[0], shape)
        self.steps.append(ShuffleAddStep(add.name, (source, images[0]), out, factor))
        self.values[add.output[0]] = out
        if last is not add:
            self.done.add(add.output[0])
        return True

    def _concat(self, node: onnx.NodeProto) -> bool:
        sources = [self._tensor(name) for name in node.input]
        tensors = [t for t in sources if t is not None]
        if attributes(node)["axis"] != 1 or len(tensors) < len(sources) or any(t.place().channels != t.channels for t in tensors):
            return False
        ending = tail(self.graph, node.output[0], activations=False)
        out = self._finish(ending, tensors[0].height, tensors[0].width, sum(t.channels for t in tensors))
        self.steps.append(ConcatStep(node.name, tuple(tensors), out))
        return True

    def _resize(self, node: onnx.NodeProto) -> bool:
        source, mode = self._tensor(node.input[0]), doubling(self.graph, node)
        if source is None or mode is None:
            return False
        ending = tail(self.graph, node.output[0], activations=False)
        out = self._finish(ending, 2 * source.height, 2 * source.width, source.channels)
        self.steps.append(ResizeStep(node.name, (source,), out, mode, out.number))
        return True

    def _mean(self, node: onnx.NodeProto) -> bool:
        source = self._tensor(node.input[0])
        if source is None or source.place().channels != source.channels:
            return False
        out = Tensor(node.output[0], 1, 1, source.channels, self.real)
        self.steps.append(MeanStep(node.name, (source,), out))
        self.values[out.name] = out
        return True

    def _gate(self, node: onnx.NodeProto) -> bool:
        pair = [self._tensor(name) or self._packed(name) for name in node.input]
        tensor = next((v for v in pair if v is not None and v.height * v.width > 1), None)
        gate = next((v for v in pair if v is not None and v.height * v.width == 1 and v.number.is_float), None)
        if tensor is None or gate is None or tensor.place().channels != gate.channels:
            return False
        ending = tail(self.graph, node.output[0], activations=False)
        out = self._finish(ending, tensor.height, tensor.width, tensor.channels)
        self.steps.append(GateStep(node.name, (tensor, gate), out))
        return True

    def _unshuffle(self, node: onnx.NodeProto) -> bool:
        source = self.values.get(node.input[0])
        if not isinstance(source, Plain) or source.shape[0] != 1:
            return False
        ending = tail(self.graph, node.output[0], activations=False)
        height, width, channels = _image(self.graph.shapes[node.output[0]])
        out = self._finish(ending, height, width, channels)
        self.steps.append(UnshuffleStep(node.name, (source,), out, int(attributes(node)["blocksize"])))
        return True


def _image(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of [1, C, H, W]."""
    return shape[2], shape[3], shape[1]


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """A copy of a node that reads its inputs under other names."""
    out = type(node)()
    out.CopyFrom(node)
    out.input[:] = [names.get(name, name) for name in node.input]
    return out
