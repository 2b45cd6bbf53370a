"""A target: the device, its limits and what pays there. One YAML per board in ``targets/``; a user's own works by path.

``extends: NAME`` (or a path relative to the file) takes over another target; what the file says itself counts more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.errors import UsageError, did_you_mean
from pipeline.yamlfile import load_yaml, validate

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Cpu(_Model):
    """The CPU that runs TVM, LiteRT and ONNX Runtime artifacts."""

    triple: str = Field(description="LLVM target triple, e.g. aarch64-linux-gnu")
    mcpu: str = Field(description="LLVM CPU name; its instruction set must not exceed the board's")
    features: tuple[str, ...] = Field(default=(), description="LLVM features, e.g. +dotprod")
    cores: int = Field(ge=1, description="cores of the fast cluster")
    name: str = Field(default="", description="for people, e.g. 4x Cortex-A76, 2.4 GHz")


class Gpu(_Model):
    """The GPU, where one is used."""

    name: str
    arch: str = Field(description="CUDA architecture, e.g. sm_72")
    dla: int = Field(default=0, ge=0, description="deep-learning accelerators beside the GPU")


class KindCost(_Model):
    """What one kind of operator costs: launch + macs * us_per_mmac + bytes * us_per_mb."""

    kind: str = Field(description="as targets.kinds names it, e.g. depthwise")
    precision: Precision
    launch_us: float = Field(ge=0, description="microseconds for being there")
    us_per_mmac: float = Field(ge=0, description="microseconds per 10**6 multiply-accumulates")
    us_per_mb: float = Field(ge=0, description="microseconds per 10**6 bytes read or written")
    networks: int = Field(ge=1, description="microbenchmarks behind the figures")


class Calibration(_Model):
    """What microbenchmarks taught about one backend in one precision on one processor."""

    backend: str = Field(description="name of the folder in compile/")
    precision: Precision = Field(description="of the networks: int8 ones may hold layers in float")
    threads: int = Field(ge=0, description="CPU threads of the measurement, 0 on a GPU")
    costs: tuple[KindCost, ...]
    networks: int = Field(ge=1, description="microbenchmarks that were timed")
    error: float = Field(ge=0, description="median relative error on microbenchmarks that were left out of the fit")
    machine: str = Field(default="", description="fingerprint of the machine that was measured")


class Rates(_Model):
    """Peak rates of one processor of the board, as the estimator uses them."""

    macs: dict[Precision, float] = Field(description="peak multiply-accumulates per second by precision, in T MAC/s (1 MAC = 2 ops)")
    bandwidth_gbs: float = Field(gt=0, description="peak memory bandwidth in GB/s")
    compute_efficiency: float = Field(gt=0, le=1, description="share of the peak rate that a dense convolution reaches")
    depthwise_efficiency: float = Field(gt=0, le=1, description="share of the peak rate that a depthwise convolution reaches")
    memory_efficiency: float = Field(gt=0, le=1, description="share of the peak bandwidth that a kernel reaches")
    launch_us: float = Field(ge=0, description="fixed cost of one layer in microseconds")
    calibrations: tuple[Calibration, ...] = Field(default=(), description="what was measured; of two alike the later counts")


class BackendChoice(_Model):
    """A backend worth trying on this target, with the precisions it runs there."""

    use: str = Field(description="name of the folder in compile/, e.g. onnxruntime")
    runs_on: Literal["cpu", "gpu"] = Field(description="which of the rates the estimator uses")
    precisions: tuple[Precision, ...]
    version: str = Field(default="", description="version of the runtime on the board")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the backend")


class Recognise(_Model):
    """How to know the board: regular expressions, each searched in what the board says of itself; an empty one is not asked.

    Something said by no board of another kind: a bundle is refused where a pattern does not fit.
    """

    model: str = Field(default="", description="in /proc/device-tree/model")
    l4t: str = Field(default="", description="in the release of /etc/nv_tegra_release, written R35.4.1")
    cuda: str = Field(default="", description="in the GPU's compute capability, e.g. 7.2")
    cpu_flags: tuple[str, ...] = Field(default=(), description="every one of them in the Features of /proc/cpuinfo, e.g. asimddp")
    android: dict[str, str] = Field(default_factory=dict, description="Android property, e.g. ro.product.cpu.abilist64, and its pattern")
    machine: str = Field(default="", description="in what uname -m prints")

    @field_validator("model", "l4t", "cuda", "machine")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return _pattern(pattern)

    @field_validator("android")
    @classmethod
    def _all_compile(cls, patterns: dict[str, str]) -> dict[str, str]:
        return {name: _pattern(p) for name, p in patterns.items()}


class PowerMode(_Model):
    """One mode of nvpmodel, or of whatever sets the clocks."""

    name: str
    id: int = Field(ge=0, description="as nvpmodel -m takes it")
    watts: float = Field(default=0, ge=0, description="power budget; 0: none")


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
    jetpack: str = Field(default="", description="JetPack release, where there is one")
    memory_gb: float = Field(default=0, ge=0, description="memory of the board in GB (10**9 bytes), shared with the GPU; 0: not stated")
    cpu: Cpu
    gpu: Gpu | None = None
    rates: dict[Literal["cpu", "gpu"], Rates]
    backends: tuple[BackendChoice, ...]
    opset: int = Field(le=17, ge=11, description="newest ONNX opset that the board's runtimes read")
    python: str = Field(default="3.8", description="Python on the board; device scripts keep to it")
    glibc: str = Field(default="", description="glibc on the board")
    runtimes: dict[str, str] = Field(default_factory=dict, description="what else is on the board, and its version: cuda, numpy, ...")
    channel_multiple: int = Field(ge=1, description="pruned widths are rounded to this")
    pays: Pays = Pays()
    frame: Frame
    latency_budget_ms: float = Field(gt=0, description="budget for one frame")
    jitter_p90: float = Field(default=1.1, ge=1, description="ratio of p90 to the estimate, stated as an assumption in the report")
    power_modes: tuple[PowerMode, ...] = Field(default=(), description="modes of the board; the rates are those of the first")
    recognise: Recognise = Field(default=Recognise(), description="how to know the board")
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
    return validate(Target, _extended(load_yaml(path), path), str(path))


def _extended(content: Any, path: Path, depth: int = 0) -> Any:
    """What ``extends: NAME`` says, with this file's values over it: mappings are merged, everything else is replaced."""
    if not isinstance(content, dict) or "extends" not in content:
        return content
    own = dict(content)
    base = str(own.pop("extends"))
    file = path.parent / base if base.endswith((".yaml", ".yml")) else TARGETS_DIR / f"{base}.yaml"
    if not file.exists():
        raise UsageError(f"{path}: extends", f"there is no target '{base}'", did_you_mean(base, known_targets()))
    if depth > 3:
        raise UsageError(f"{path}: extends", f"'{base}' and others extend each other without an end", "extend a target that extends none")
    return _merged(_extended(load_yaml(file), file, depth + 1), own)


def _merged(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {**base, **{key: _merged(base.get(key), value) for key, value in own.items()}}


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as e:
        raise ValueError(f"'{text}' is no regular expression ({e})") from None
    return text


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
