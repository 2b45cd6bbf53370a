"""The TensorRT backend: writes what the board needs to build its engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from compile.source import Source, write_fixed
from compile.tensorrt.flags import command_flags, trtexec_of
from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed, ToolchainMissing
from pipeline.yamlfile import validate

SOURCES: dict[str, Source] = {"fp16": "float", "int8": "s8"}


class TensorRtOptions(BaseModel):
    """Options of the backend in a target file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workspace_mib: int = Field(default=2048, ge=16, description="scratch memory for the builder in MiB; the board's memory bounds it")
    warmup_ms: int = Field(default=1000, ge=0, description="warm-up before timing in ms")


class TensorRtBackend(Backend):
    """Static ONNX in TensorRT's Q/DQ flavour; layers that are not int8 run in fp16."""

    name: ClassVar[str] = "tensorrt"
    toolchain: ClassVar[tuple[str, ...]] = ("onnx", "onnxslim")

    def missing(self) -> str:
        """Empty when the ONNX packages are installed: writing needs no TensorRT."""
        found = all(importlib.util.find_spec(name) for name in ("onnx", "onnxslim"))
        return "" if found else 'pip install -e ".[onnx]"'

    def _build(self, request: BuildRequest) -> Built:
        if request.precision not in SOURCES:
            raise StageFailed("compile.tensorrt", f"has no {request.precision}", f"it has: {', '.join(SOURCES)}")
        version = _version(request)
        options = validate(TensorRtOptions, dict(request.options), "target", "backends.tensorrt.options")
        source = SOURCES[request.precision]
        stem = f"tensorrt-{request.precision}"
        out = request.workdir / f"{stem}.onnx"
        write_fixed(request, source, out)
        facts = {
            "backend": "compile.tensorrt",
            "precision": request.precision,
            "height": request.height,
            "width": request.width,
            "runs_here": False,
            "source": source,
            "float_precision": "fp16",
            "tensorrt": version,
            "engine": f"artifacts/{stem}.engine",
            "build_flags": build_flags(version, stem, request.precision, options),
            "run_flags": run_flags(version, options),
        }
        return Built(out, facts)

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        raise ToolchainMissing(
            "compile.tensorrt", "engines run on the board only", "copy the bundle there: ./build_engine.sh, python3 bench.py"
        )


def build_flags(version: str, stem: str, precision: str, options: TensorRtOptions) -> list[str]:
    """Return the flags that build an engine, with paths relative to the bundle."""
    flags: dict[str, str | None] = {"onnx": f"artifacts/{stem}.onnx", "saveEngine": f"artifacts/{stem}.engine", "fp16": None}
    if precision == "int8":
        flags["int8"] = None
    flags["memPoolSize"] = f"workspace:{options.workspace_mib}"
    flags["profilingVerbosity"] = "detailed"
    flags["exportLayerInfo"] = f"artifacts/{stem}.layers.json"
    flags[trtexec_of(version).build_only] = None
    return command_flags(version, flags)


def run_flags(version: str, options: TensorRtOptions) -> list[str]:
    """Return the flags that time an engine: its kernels alone, launched as one CUDA graph, the profile in a run of its own."""
    switches: dict[str, str | None] = {"useCudaGraph": None, "useSpinWait": None, "noDataTransfers": None, "separateProfileRun": None}
    return command_flags(version, {**switches, "avgRuns": "1", "warmUp": str(options.warmup_ms)})


def _version(request: BuildRequest) -> str:
    return next((b.version for b in request.target.backends if b.use.rpartition(".")[2] == "tensorrt"), "")
