"""The ONNX Runtime backend."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compile.source import Source, source_file
from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed
from quantize.artifact import ModelFolder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SOURCES: dict[str, Source] = {"fp32": "float", "fp16": "float", "int8": "u8"}


class OnnxRuntimeBackend(Backend):
    """Takes the ONNX file as it is (fp16: with its constants rounded): the runtime optimises it when it is opened."""

    name: ClassVar[str] = "onnxruntime"
    toolchain: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    needs: ClassVar[str] = "`pip install onnxruntime`"

    def missing(self) -> str:
        """Empty when ONNX Runtime is installed."""
        return "" if importlib.util.find_spec("onnxruntime") else 'pip install -e ".[onnx]"'

    def _build(self, request: BuildRequest) -> Built:
        if request.precision not in SOURCES:
            raise StageFailed("compile.onnxruntime", f"has no {request.precision}", f"it has: {', '.join(SOURCES)}")
        source = SOURCES[request.precision]
        out = request.workdir / f"onnxruntime-{request.precision}.onnx"
        found = source_file(ModelFolder(request.model), source)
        if request.precision == "fp16":
            _write_half(found, out)
        else:
            shutil.copyfile(found, out)
        return Built(out, {**onnxruntime_facts(request.precision), "source": source})

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        return OnnxSession(path, threads, int(facts["height"]), int(facts["width"]))


class OnnxSession(Session):
    """An ONNX file in ONNX Runtime.

    Args:
        path: the file.
        threads: CPU threads; 0 takes all cores.
        height: of a file of fixed size, else 0.
        width: likewise.
        optimise: False runs the graph node by node as it is written: for Q/DQ files that is the fake-quantized network itself.

    Raises:
        StageFailed: the runtime cannot load the file.

    """

    def __init__(self, path: Path, threads: int = 1, height: int = 0, width: int = 0, *, optimise: bool = True) -> None:
        super().__init__(height, width)
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _load_errors() as e:
            raise StageFailed(str(path), f"ONNX Runtime cannot load it ({str(e).splitlines()[0]})", "build it again") from e
        self._input = self._session.get_inputs()[0].name

    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        out: NDArray[np.float32] = self._session.run(None, {self._input: lq})[0]
        return out


def _write_half(source: Path, out: Path) -> None:
    import onnx

    from compile.onnxruntime.half import to_half

    onnx.save(to_half(onnx.load(str(source))), str(out))


def _load_errors() -> tuple[type[Exception], ...]:
    """The runtime's own exceptions; they share no base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException")
    return tuple(getattr(state, name) for name in names)


def onnxruntime_facts(precision: str) -> dict[str, Any]:
    """Facts of an ONNX file of free size that ONNX Runtime opens."""
    floats = "fp16" if precision == "fp16" else "fp32"
    return {"backend": "compile.onnxruntime", "precision": precision, "height": 0, "width": 0, "runs_here": True, "float_precision": floats}
