"""An ONNX file that states the type of every tensor, for TensorRT 11 and later, which build exactly what the file says.

Float operators become fp16. What stays float32: the Q/DQ nodes with their scales (a weight's scale of 1e-5 is below fp16's normal
range), the operators between them, which run in int8 with a float32 epilogue in registers, sums over the whole image, and what reads
the image itself, so that its copy in the result is exact. Casts stand where the types meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compile.onnxruntime.half import FLOAT_INPUTS, halved

if TYPE_CHECKING:
    import onnx

REDUCTIONS = frozenset({"GlobalAveragePool", "ReduceMean"})
EPILOGUES = frozenset({"Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid"})
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})


def typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose float operators are fp16, its input and output float32 as before.

    Args:
        model: float32 or with Q/DQ nodes, at a fixed size, one input and one output.

    """
    import onnx

    out = onnx.ModelProto()
    out.CopyFrom(model)
    _Typer(out).run()
    del out.graph.value_info[:]
    onnx.checker.check_model(out, full_check=True)
    return out


class _Typer:
    """Types one graph in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        self.graph = model.graph
        inferred = onnx.shape_inference.infer_shapes(model).graph
        values = [*inferred.input, *inferred.value_info, *inferred.output]
        self.floats = {v.name for v in values if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
        self.constants = {i.name: i for i in self.graph.initializer}
        self.constants |= {n.output[0]: n.attribute[0].t for n in self.graph.node if n.op_type == "Constant"}
        self.source = self.graph.input[0].name
        self.made: list[onnx.NodeProto] = []
        self.halves: dict[str, str] = {}  # tensor -> its fp16 copy
        self.singles: dict[str, str] = {}  # fp16 tensor -> its float32 copy

    def run(self) -> None:
        """Decide for each node, then rewrite the graph with casts between the two kinds."""
        single = self._single_nodes()
        result = self.graph.output[0].name
        half_tensors = {o for i, n in enumerate(self.graph.node) if i not in single for o in n.output if o in self.floats}
        for index, node in enumerate(self.graph.node):
            if node.op_type == "Constant":
                self.made.append(node)
                continue
            for place, name in enumerate(node.input):
                if index in single or place in FLOAT_INPUTS.get(node.op_type, ()):
                    node.input[place] = self._as_single(name) if name in half_tensors else name
                elif name not in half_tensors:
                    node.input[place] = self._as_half(name)
            self.made.append(node)
        self._restore_output(result, half_tensors)
        kept = [_copy(n) for n in self.made]  # emptying the graph frees the nodes that it owns
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def _single_nodes(self) -> set[int]:
        """Indices of the nodes that stay float32."""
        producers = {o: n for n in self.graph.node for o in n.output}
        readers: dict[str, list[str]] = {}
        for node in self.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.op_type)
        found: set[int] = set()
        in_int8: set[str] = set()  # outputs of quantized operators
        for index, node in enumerate(self.graph.node):
            moving = [n for n in node.input if n and n not in self.constants]
            feeds = [producers[n].op_type if n in producers else "" for n in moving]
            quantized = bool(feeds) and all(f == "DequantizeLinear" for f in feeds)
            rounded = set(readers.get(node.output[0], ())) == {"QuantizeLinear"}
            behind = node.op_type in EPILOGUES and moving[0] in in_int8 and rounded
            if node.op_type in QDQ or node.op_type in REDUCTIONS:
                found.add(index)
            elif (quantized and (node.op_type in ("Conv", "ConvTranspose") or rounded)) or behind:
                found.add(index)
                in_int8.add(node.output[0])
            elif self.source in moving and node.op_type not in ("Conv", "ConvTranspose"):
                found.add(index)
        return found

    def _as_half(self, name: str) -> str:
        """The tensor in fp16: a rounded copy of a constant, a cast of anything else; integers as they are."""
        from onnx import TensorProto, helper, numpy_helper

        if not name:
            return name
        if name in self.constants:
            if self.constants[name].data_type != TensorProto.FLOAT:
                return name
            if name not in self.halves:
                self.halves[name] = f"{name}.half"
                value = halved(numpy_helper.to_array(self.constants[name]))
                self.graph.initializer.append(numpy_helper.from_array(value, self.halves[name]))
        elif name not in self.floats:
            return name
        elif name not in self.halves:
            self.halves[name] = f"{name}.half"
            self.made.append(helper.make_node("Cast", [name], [self.halves[name]], f"{name}.to_half", to=TensorProto.FLOAT16))
        return self.halves[name]

    def _as_single(self, name: str) -> str:
        from onnx import TensorProto, helper

        if name not in self.singles:
            self.singles[name] = f"{name}.single"
            self.made.append(helper.make_node("Cast", [name], [self.singles[name]], f"{name}.to_single", to=TensorProto.FLOAT))
        return self.singles[name]

    def _restore_output(self, result: str, half_tensors: set[str]) -> None:
        """Give the graph's output its name and type back."""
        from onnx import TensorProto, helper

        if result not in half_tensors:
            return
        for node in self.made:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == result:
                        names[place] = f"{result}.inner"
        self.made.append(helper.make_node("Cast", [f"{result}.inner"], [result], f"{result}.to_single", to=TensorProto.FLOAT))


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    out = onnx.NodeProto()
    out.CopyFrom(node)
    return out
