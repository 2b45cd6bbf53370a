"""Engines that are built and run on this machine, where TensorRT and its GPU are here."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.tensorrt import build_engine, trt_engine
from eval.session import Session
from pipeline.errors import StageFailed, ToolchainMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def missing_here(version: str, arch: str = "") -> str:
    """What this machine lacks to build and run engines of a target; empty when it has it all.

    Args:
        version: of the target's TensorRT: the one here must build the same way.
        arch: CUDA architecture of the target's GPU, e.g. "sm_72"; without it any GPU does.

    """
    if importlib.util.find_spec("tensorrt") is None:
        return "the Python package tensorrt is not installed"
    try:
        found = build_engine.Cuda().facts()
        build_engine.fits_version({"tensorrt": version}, "python")
    except RuntimeError as e:
        return str(e)
    here = "sm_" + found["compute_capability"].replace(".", "")
    return f"the GPU here, {found['gpu']}, is {here} and the target's {arch}" if arch and here != arch else ""


def build_here(onnx: Path, settings: Mapping[str, Any]) -> Path:
    """Build the engine beside its ONNX file unless one lies there that fits, and return it.

    Raises:
        StageFailed: TensorRT cannot build it.

    """
    engine = onnx.with_suffix(".engine")
    try:
        if build_engine.misfit(engine, onnx, dict(settings)):
            folder = os.environ.get("TIMING_CACHE") or Path.home() / ".cache" / "tensorrt-timing"
            cache = build_engine.timing_cache("python", Path(folder))
            build_engine.build(trt_engine, dict(settings), onnx, engine, onnx.with_suffix(".layers.json"), cache)
    except RuntimeError as e:
        raise StageFailed("compile.tensorrt", str(e), "see what TensorRT printed above") from e
    return engine


class TensorRtSession(Session):
    """An engine on this machine's GPU, built first where it is missing or does not fit.

    Args:
        path: the ONNX file.
        facts: of the built artifact.

    Raises:
        ToolchainMissing: no TensorRT, no GPU, or not the version that the file was written for.
        StageFailed: TensorRT cannot build or load it.

    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        super().__init__(int(facts["height"]), int(facts["width"]))
        lacking = missing_here(str(facts["tensorrt"]))
        if lacking:
            hint = "copy the bundle to the board: ./build_engine.sh, python3 bench.py"
            raise ToolchainMissing("compile.tensorrt", f"engines run on the board only: {lacking}", hint)
        engine = build_here(path, facts["builder"])
        try:
            self._engine = trt_engine.Engine(engine, build_engine.Cuda())
        except RuntimeError as e:
            raise StageFailed("compile.tensorrt", str(e), f"remove {engine} to have it built again") from e

    def _run(self, lq: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            out: NDArray[np.float32] = self._engine.run(lq)
        except (RuntimeError, ValueError) as e:
            raise StageFailed("compile.tensorrt", str(e), "build the engine again") from e
        return out

    def close(self) -> None:
        """Free the GPU's memory."""
        if self._open:
            self._engine.close()
        super().close()
