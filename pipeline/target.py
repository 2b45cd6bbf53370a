"""A target: the device, its limits and what pays there. One YAML per board in ``targets/``; a user's own works by path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import UsageError, did_you_mean
from pipeline.yamlfile import load_yaml, validate

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cpu(_Model):
    """The CPU that runs TVM, LiteRT and ONNX Runtime artifacts."""

    triple: str = Field(description="LLVM target triple, e.g. aarch64-linux-gnu")
    mcpu: str = Field(description="LLVM CPU name; its instruction set must not exceed the board's")
    features: tuple[str, ...] = Field(default=(), description="LLVM features, e.g. +dotprod")
    cores: int = Field(ge=1, description="cores of the fast cluster")


class Gpu(_Model):
    """The GPU, where one is used."""

    name: str
    arch: str = Field(description="CUDA architecture, e.g. sm_72")


class Rates(_Model):
    """Peak rates of one processor of the board, as the estimator uses them."""

    macs: dict[Precision, float] = Field(description="peak multiply-accumulates per second by precision, in T MAC/s (1 MAC = 2 ops)")
    bandwidth_gbs: float = Field(gt=0, description="peak memory bandwidth in GB/s")
    compute_efficiency: float = Field(gt=0, le=1, description="share of the peak rate that a dense convolution reaches")
    depthwise_efficiency: float = Field(gt=0, le=1, description="share of the peak rate that a depthwise convolution reaches")
    memory_efficiency: float = Field(gt=0, le=1, description="share of the peak bandwidth that a kernel reaches")
    launch_us: float = Field(ge=0, description="fixed cost of one layer in microseconds")


class BackendChoice(_Model):
    """A backend worth trying on this target, with the precisions it runs there."""

    use: str = Field(description="name of the folder in compile/, e.g. onnxruntime")
    runs_on: Literal["cpu", "gpu"] = Field(description="which of the rates the estimator uses")
    precisions: tuple[Precision, ...]
    version: str = Field(default="", description="version of the runtime on the board")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the backend")


class Frame(_Model):
    """Size of the images to restore, in pixels."""

    width: int = Field(ge=16)
    height: int = Field(ge=16)


class Pays(_Model):
    """What a student should look like to be fast here; ``check`` warns when it does not."""

    activation: tuple[str, ...] = ("relu",)
    blocks: tuple[str, ...] = ("inverted_residual", "fused")
    upsample: tuple[str, ...] = ("nearest", "bilinear")


class Target(_Model):
    """A device and its limits."""

    name: str
    title: str
    cpu: Cpu
    gpu: Gpu | None = None
    rates: dict[Literal["cpu", "gpu"], Rates]
    backends: tuple[BackendChoice, ...]
    opset: int = Field(le=17, ge=11, description="newest ONNX opset that the board's runtimes read")
    python: str = Field(default="3.8", description="Python on the board; device scripts keep to it")
    glibc: str = Field(default="", description="glibc on the board")
    channel_multiple: int = Field(ge=1, description="pruned widths are rounded to this")
    pays: Pays = Pays()
    frame: Frame
    latency_budget_ms: float = Field(gt=0, description="budget for one frame")
    jitter_p90: float = Field(default=1.1, ge=1, description="ratio of p90 to the estimate, stated as an assumption in the report")
    is_host: bool = Field(default=False, description="true for the machine that runs the pipeline")


TARGETS_DIR = Path(__file__).resolve().parent.parent / "targets"


def known_targets() -> list[str]:
    """Names of the shipped targets: the YAML files in ``targets/``."""
    return sorted(p.stem for p in TARGETS_DIR.glob("*.yaml"))


def load_target(name: str) -> Target:
    """Load a target by name, or by path when the name ends in .yaml or contains a separator.

    Raises:
        UsageError: unknown name, missing file, or a file that does not fit the schema.

    """
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if is_path else TARGETS_DIR / f"{name}.yaml"
    if not is_path and name not in known_targets():
        raise UsageError("--target", f"unknown target '{name}'", did_you_mean(name, known_targets()))
    return validate(Target, load_yaml(path), str(path))


class TargetView:
    """The part of a target that a stage declared in ``reads_target``; anything else raises.

    Dotted declarations such as ``cpu.cores`` open the whole first-level field for reading, but only the declared value enters the
    cache key.
    """

    __slots__ = ("_fields", "_target")

    def __init__(self, target: Target, fields: Iterable[str]) -> None:
        self._target = target
        self._fields = tuple(fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in {f.split(".")[0] for f in self._fields}:
            raise AttributeError(f"target.{name} is not declared in reads_target {self._fields}")
        return getattr(self._target, name)

    def key(self) -> dict[str, Any]:
        """The declared fields as JSON, for the cache key."""
        dump = self._target.model_dump(mode="json")
        return {path: _dig(dump, path) for path in self._fields}


def _dig(tree: Any, path: str) -> Any:
    for part in path.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
