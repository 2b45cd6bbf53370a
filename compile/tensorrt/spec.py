"""One description of an engine, from which every build of it is written: trtexec's commands and the Python builder's settings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compile.tensorrt.flags import TrtExec, command_flags, trtexec_of

EnginePrecision = Literal["fp32", "fp16", "int8"]


class TensorRtOptions(BaseModel):
    """Options of the backend in a target file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workspace_mib: int = Field(default=2048, ge=16, description="scratch memory for the builder in MiB; the board's memory bounds it")
    warmup_ms: int = Field(default=1000, ge=0, description="warm-up before timing in ms")
    dla: bool = Field(default=False, description="run on the deep learning accelerator: refused, with the reason")


class EngineSpec(BaseModel):
    """What is built, whatever builds it.

    In ``int8``, exactly the layers between Q/DQ nodes are int8 and the rest is fp16. Up to TensorRT 10 that takes flags beside the
    explicit Q/DQ file (never a calibrator, which would quantize layers of its own choice); from 11 on the file's types say it all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="of the artifact; its files are artifacts/<name>.onnx, .engine, .layers.json")
    version: str = Field(description="of TensorRT on the board, e.g. 8.5.2")
    precision: EnginePrecision
    options: TensorRtOptions = TensorRtOptions()

    @property
    def trtexec(self) -> TrtExec:
        """What this version's trtexec is like; UsageError when it is not known."""
        return trtexec_of(self.version)

    @property
    def onnx(self) -> str:
        """Path in the bundle."""
        return f"artifacts/{self.name}.onnx"

    @property
    def engine(self) -> str:
        """Path in the bundle."""
        return f"artifacts/{self.name}.engine"

    @property
    def layers(self) -> str:
        """Path in the bundle of the built engine's layers, as TensorRT lists them."""
        return f"artifacts/{self.name}.layers.json"

    def precision_flags(self) -> tuple[str, ...]:
        """Precisions that the builder must be allowed, as it names them; none where the file is typed."""
        if self.trtexec.typed or self.precision == "fp32":
            return ()
        return ("fp16", "int8") if self.precision == "int8" else ("fp16",)

    def build_flags(self) -> list[str]:
        """The flags with which trtexec builds the engine; the timing cache, whose path only the board knows, is not among them."""
        workspace, _, size = self.trtexec.workspace.format(mib=self.options.workspace_mib).partition("=")
        flags: dict[str, str | None] = {"onnx": self.onnx, "saveEngine": self.engine}
        flags |= dict.fromkeys(self.precision_flags())
        if self.precision == "fp32":
            flags["noTF32"] = None
        flags |= {workspace: size, "profilingVerbosity": "detailed", "exportLayerInfo": self.layers, self.trtexec.build_only: None}
        return command_flags(self.version, flags)

    def run_flags(self) -> list[str]:
        """The flags that time an engine, spelled out so that every version measures the same.

        That is: the kernels alone, one stream, launched as one CUDA graph, without pauses; the profile in a run of its own.
        """
        flags: dict[str, str | None] = {"useCudaGraph": None, "useSpinWait": None, "noDataTransfers": None, "separateProfileRun": None}
        flags |= {self.trtexec.streams: "1", "sleepTime": "0", "idleTime": "0", "avgRuns": "1", "warmUp": str(self.options.warmup_ms)}
        return command_flags(self.version, flags)

    def builder(self) -> dict[str, Any]:
        """The same build for ``build_engine.py``."""
        return {
            "onnx": self.onnx,
            "engine": self.engine,
            "layers": self.layers,
            "tensorrt": self.version,
            "precisions": [name.upper() for name in self.precision_flags()],
            "typed": self.trtexec.typed,
            "tf32": self.precision != "fp32",
            "workspace_mib": self.options.workspace_mib,
        }
