"""The LiteRT backend."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np

from compile.litert.readback import Readback, differences
from compile.source import Source, write_fixed
from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed
from pipeline.machine import cores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from quantize.artifact import ModelFolder

SOURCES: dict[str, Source] = {"fp32": "float", "fp16": "float", "int8": "u8"}


class LiteRtBackend(Backend):
    """Writes the .tflite from the ONNX files: no converter, no calibration, nothing but the runtime's own schema."""

    name: ClassVar[str] = "litert"
    toolchain: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "onnx", "onnxslim")
    needs: ClassVar[str] = "`pip install ai-edge-litert` (Python 3.9 or older: `tflite-runtime`)"

    def missing(self) -> str:
        """Empty when the runtime is installed (its wheel brings the schema of the file)."""
        found = all(importlib.util.find_spec(name) for name in ("ai_edge_litert", "flatbuffers", "onnx", "onnxslim"))
        return "" if found else 'pip install -e ".[litert,onnx]"'

    def differences(self, built: Built, folder: ModelFolder) -> list[str]:
        """What in an int8 artifact is not as in the model folder: scales, zero points, integer weights; empty when all is."""
        return differences(built.path, folder)

    def _build(self, request: BuildRequest) -> Built:
        from compile.litert.graph import Graph
        from compile.litert.operators import translate

        if request.precision not in SOURCES:
            raise StageFailed("compile.litert", f"has no {request.precision}", f"it has: {', '.join(SOURCES)}")
        source = SOURCES[request.precision]
        with tempfile.TemporaryDirectory() as tmp:
            model = write_fixed(request, source, Path(tmp) / "fixed.onnx")
        out = request.workdir / f"litert-{request.precision}.tflite"
        out.write_bytes(translate(Graph(model), half=request.precision == "fp16"))
        facts = {"backend": "compile.litert", "precision": request.precision, "height": request.height, "width": request.width}
        facts |= {"runs_here": True, "source": source, "float_precision": "fp16" if request.precision == "fp16" else "fp32"}
        return Built(out, {**facts, "litert": importlib.metadata.version("ai-edge-litert"), **_delegated(out)})

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        return LiteRtSession(path, threads)


class LiteRtSession(Session):
    """A .tflite file in LiteRT with XNNPACK.

    Args:
        path: the file; its input is float32 [1, H, W, 3].
        threads: CPU threads; 0 takes all cores.

    Raises:
        StageFailed: the runtime cannot load the file.

    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._interpreter = open_interpreter(path, threads or cores())
        lq, restored = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        super().__init__(*(int(side) for side in lq["shape"][1:3]))
        self._lq, self._restored = (self._interpreter.tensor(t["index"]) for t in (lq, restored))

    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        out = [self._one(image) for image in lq]
        return np.stack(out) if len(out) > 1 else out[0][None]

    def _one(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        cv2.merge(list(image), self._lq()[0])  # three times as fast as numpy's transposition
        self._interpreter.invoke()
        return np.ascontiguousarray(self._restored()[0].transpose(2, 0, 1))


def open_interpreter(path: Path, threads: int) -> Any:
    """Return an interpreter with its tensors allocated."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as e:
        raise StageFailed(str(path), f"LiteRT cannot load it ({str(e).strip().splitlines()[0]})", "build it again") from e
    return interpreter


def _delegated(path: Path) -> dict[str, Any]:
    """What the file holds, and that XNNPACK takes all of it as one piece."""
    file = Readback(path)
    operators, pieces = file.operators(), partitions(open_interpreter(path, 1), file)
    if pieces != 1:
        raise StageFailed(
            "compile.litert", f"XNNPACK takes the network in {pieces} pieces, not as a whole ({operators})", "use another backend"
        )
    return {"operators": operators, "partitions": pieces}


def partitions(interpreter: Any, file: Readback) -> int:
    """How many pieces the network runs in: XNNPACK's, and one for what it leaves to plain kernels; 0 where it takes nothing.

    One piece that reads nothing computed but the network's input, and writes nothing but its output, is the whole network.
    """
    pieces = [op for op in interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
    inputs, outputs = ({int(t["index"]) for t in side} for side in (interpreter.get_input_details(), interpreter.get_output_details()))
    whole = len(pieces) == 1 and file.computed(pieces[0]["inputs"]) == inputs and file.computed(pieces[0]["outputs"]) == outputs
    return 1 if whole else len(pieces) + bool(pieces)
