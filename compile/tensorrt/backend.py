"""The TensorRT backend: writes what the board needs to build its engine, and builds it here where TensorRT is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from compile.source import Source, write_fixed
from compile.tensorrt.dla import dla_refusal
from compile.tensorrt.spec import EngineSpec, TensorRtOptions
from eval.session import Backend, BuildRequest, Built, Session
from pipeline.errors import StageFailed, UsageError
from pipeline.target import BackendChoice, Target
from pipeline.yamlfile import validate
from quantize.artifact import ModelFolder

SOURCES: dict[str, Source] = {"fp32": "float", "fp16": "float", "int8": "s8"}


class TensorRtBackend(Backend):
    """Static ONNX in TensorRT's Q/DQ flavour; layers that are not int8 run in fp16."""

    name: ClassVar[str] = "tensorrt"
    toolchain: ClassVar[tuple[str, ...]] = ("onnx", "onnxslim")
    needs: ClassVar[str] = "TensorRT, which JetPack brings"

    def missing(self) -> str:
        """Empty when the ONNX packages are installed: writing needs no TensorRT."""
        found = all(importlib.util.find_spec(name) for name in ("onnx", "onnxslim"))
        return "" if found else 'pip install -e ".[onnx]"'

    def _build(self, request: BuildRequest) -> Built:
        from compile.tensorrt.session import build_here, missing_here

        if request.precision not in SOURCES:
            raise StageFailed("compile.tensorrt", f"has no {request.precision}", f"it has: {', '.join(SOURCES)}")
        spec = spec_of(request.target, request.precision, request.options)
        out = request.workdir / f"{spec.name}.onnx"
        if request.precision == "int8" and ModelFolder(request.model).facts.unsigned:
            what = "the network's activations are unsigned, and TensorRT takes zero points of 0 alone"
            raise StageFailed("compile.tensorrt", what, "quantize with unsigned: false, or for a target that runs int8 on its GPU")
        write_fixed(request, SOURCES[request.precision], out)
        arch = request.target.gpu.arch if request.target.gpu else ""
        if spec.options.dla:
            raise _no_dla(spec, request.target, out)
        if spec.trtexec.typed and request.precision != "fp32":
            _write_typed(out)
        here = not missing_here(spec.version, arch)
        if here:
            build_here(out, spec.builder())
        return Built(out, _facts(request, spec, here))

    def _open(self, path: Path, facts: Mapping[str, Any], threads: int) -> Session:
        from compile.tensorrt.session import TensorRtSession

        return TensorRtSession(path, facts)

    def accept(self, choice: BackendChoice, target: Target) -> None:
        """Refuse what no network would be built with, before one is trained.

        Raises:
            UsageError: an unknown version or option, a precision that TensorRT has not, or a DLA.

        """
        for precision in choice.precisions:
            if precision not in SOURCES:
                raise UsageError("target: backends.tensorrt.precisions", f"has no {precision}", f"it has: {', '.join(SOURCES)}")
            spec = spec_of(target, precision, choice.options)
            spec.build_flags()
            if spec.options.dla:
                raise _no_dla(spec, target, None)


def spec_of(target: Target, precision: str, options: Mapping[str, Any]) -> EngineSpec:
    """The engine that a target asks for."""
    version = next((b.version for b in target.backends if b.use.rpartition(".")[2] == "tensorrt"), "")
    checked = validate(TensorRtOptions, dict(options), "target", "backends.tensorrt.options")
    return EngineSpec.model_validate({"name": f"tensorrt-{precision}", "version": version, "precision": precision, "options": checked})


def _no_dla(spec: EngineSpec, target: Target, path: Path | None) -> UsageError:
    arch = target.gpu.arch if target.gpu else ""
    reason = dla_refusal(path, arch, target.title, spec.version, spec.precision)
    return UsageError("target: backends.tensorrt.options.dla", reason, "remove 'dla': the GPU runs all of it")


def _facts(request: BuildRequest, spec: EngineSpec, here: bool) -> dict[str, Any]:
    return {
        "backend": "compile.tensorrt",
        "precision": request.precision,
        "height": request.height,
        "width": request.width,
        "runs_here": here,
        "source": SOURCES[request.precision],
        "float_precision": "fp32" if request.precision == "fp32" else "fp16",
        "tensorrt": spec.version,
        "engine": spec.engine,
        "builder": spec.builder(),
        "build_flags": spec.build_flags(),
        "run_flags": spec.run_flags(),
    }


def _write_typed(path: Path) -> None:
    import onnx

    from compile.tensorrt.typed import typed

    onnx.save(typed(onnx.load(str(path))), str(path))
