"""Whether the integers and scales of a network are in a built library as they are in its Q/DQ file.

Constants lie in a library byte for byte: packed again from the Q/DQ file they must be found there. That proves weights, biases and the
scales behind every convolution for libraries of any machine, without running them. Scales and zero points of activations are written
into the kernels' code; the build says in its facts which ones it wrote.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.session import Built
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    import onnx


def differences(built: Built, folder: ModelFolder) -> list[str]:
    """Compare a library with the model folder that it was built from.

    Args:
        built: an int8 library.
        folder: with ``quantization.json`` and the Q/DQ files.

    Returns:
        One line for each tensor of ``quantization.json`` that the library does not hold as said there.

    """
    scales = folder.scales()
    out = [f"activation {name}" for name, want in scales["activations"].items() if not _same(built.facts["activations"].get(name), want)]
    return out + _weights(built, folder, scales["weights"])


def _same(found: Any, want: dict[str, Any]) -> bool:
    if found is None:
        return False
    dtype, scale, zero = found
    expected = (0 if want["non_negative"] else 128) if dtype == "uint8" else want["zero_point"]
    return bool(np.float32(scale) == np.float32(want["scale"]) and zero == expected)


def _weights(built: Built, folder: ModelFolder, wanted: dict[str, Any]) -> list[str]:
    import tvm
    from onnx import numpy_helper

    from compile.tvm.assemble import assemble
    from compile.tvm.cpu import cpu_of
    from compile.tvm.fuse import fuse_sums
    from compile.tvm.graph import Graph
    from compile.tvm.kernels.conv import Tile
    from compile.tvm.kernels.tensors import Number
    from compile.tvm.network import read_network
    from compile.tvm.tiles import Tiles

    facts = built.facts
    cpu = cpu_of(tvm.target.Target({"kind": "llvm", "mtriple": facts["mtriple"], "mcpu": facts["mcpu"], "mattr": list(facts["mattr"])}))
    model = _fixed(folder, str(facts["source"]), int(facts["height"]), int(facts["width"]))
    graph = Graph(model)
    tiles = Tiles(cpu, {shape: Tile(*sizes) for shape, sizes in facts["tiles"].items()})
    packed = assemble(fuse_sums(read_network(graph, cpu.activation, Number())), cpu, tiles, graph.opset).constants
    library = built.path.read_bytes()
    held = {p.name: all(c.tobytes() in library for c in p.constants) for p in packed}
    scales = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    out = []
    for name, want in wanted.items():
        found = scales.get(f"{name}.scale")
        exact = found is not None and np.array_equal(found.reshape(-1), np.asarray(want["scale"], np.float32))
        if not exact or not held.get(_node_of(model, f"{name}.dequantize"), False):
            out.append(f"weight {name}")
    return out


def _node_of(model: onnx.ModelProto, dequantize: str) -> str:
    """Name of the node that reads what a DequantizeLinear makes."""
    made = next((n.output[0] for n in model.graph.node if n.name == dequantize), "")
    return next((n.name for n in model.graph.node if made in n.input), "") if made else ""


def _fixed(folder: ModelFolder, source: str, height: int, width: int) -> onnx.ModelProto:
    import onnx

    from compile.source import source_file
    from models.export import fix_size

    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "fixed.onnx"
        fix_size(source_file(folder, "u8" if source == "u8" else "s8"), path, height, width)
        return onnx.load(str(path))
