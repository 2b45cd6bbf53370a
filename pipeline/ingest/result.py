"""result.json: what a benchmark on a board brings back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UsageError
from pipeline.runs import read_json

SCHEMA = 2
TOLERANCE = 0.02
"""How far a stated percentile may be off the one of the stated times: their rounding, and interpolation between neighbours."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Timing(_Model):
    """Statistics of repeated runs, in ms, and the times behind them."""

    p50_ms: float = Field(gt=0, allow_inf_nan=False)
    p90_ms: float = Field(gt=0, allow_inf_nan=False)
    p99_ms: float = Field(gt=0, allow_inf_nan=False)
    cv: float = Field(ge=0, allow_inf_nan=False, description="robust coefficient of variation")
    count: int = Field(ge=1)
    times_ms: tuple[float, ...] = ()
    height: int | None = Field(default=None, description="size in pixels of what one run takes; the protocol's when left out")
    width: int | None = None


class GoldenResult(_Model):
    """How near the board's output is to the golden one; ``psnr`` is null when they are identical."""

    psnr: float | None = None
    identical: bool = False


class Protocol(_Model):
    """How the timing was done; ``input`` is [height, width] in pixels of what the kernel takes, ``frame`` of a whole frame."""

    threads: int | None = None
    input: tuple[int, int] | None = None
    frame: tuple[int, int] | None = None


class Samples(_Model):
    """What was read beside the timing."""

    energy_mj_per_frame: float | None = None
    peak_rss_mb: float | None = None


class LayerTime(_Model):
    """Milliseconds of one layer in one run, under the name that the runtime gives it."""

    name: str
    ms: float = Field(ge=0, allow_inf_nan=False)


class Layers(_Model):
    """The runtime's own profile: layers in the order of execution, means over ``runs`` runs."""

    runs: int = Field(ge=1)
    rows: tuple[LayerTime, ...] = Field(min_length=1)


class Way(_Model):
    """How the result was obtained; ``function_only``: not on the board."""

    scheme: str = ""
    name: str = ""
    function_only: bool = False


class DeviceResult(_Model):
    """The whole file."""

    schema_: Literal[2] = Field(alias="schema")
    bundle_sha256: str
    artifact: str
    precision: str = ""
    verified: bool
    golden: GoldenResult
    device: dict[str, Any]
    protocol: Protocol = Protocol()
    kernel: Timing | None = None
    frame: Timing | None = None
    layers: Layers | None = None
    samples: Samples | None = None
    stable: bool
    unstable_reason: str = ""
    started: str = ""
    seconds: float = 0.0
    transport: Way = Way()
    board: dict[str, Any] = Field(default_factory=dict, description="what the board said of itself when the bundle was brought")

    @property
    def identity(self) -> dict[str, Any]:
        """What is known of the board; what its own script read there counts before what its shell said.

        On this machine the processor's name is the pipeline's: on ARM the script reads a part number, by which no run knows its host.
        """
        own = {"cpu": self.board["cpu"]} if self.transport.scheme == "local" and self.board.get("cpu") else {}
        return {**self.board, **{k: v for k, v in self.device.items() if v not in (None, "")}, **own}

    def emulated(self) -> str:
        """Why the result does not come from the board itself, "" when nothing says so."""
        if self.transport.function_only:
            return f"it comes from {self.transport.name}, which emulates the CPU"
        if self.device.get("emulated") or self.board.get("emulated"):
            return "it was made under emulation"
        shell, script = self.board.get("machine"), self.device.get("machine")
        if shell and script and shell != script and "64" in str(script):
            return f"the board's shell runs on {shell} and the benchmark on {script}: it was emulated"
        return ""


def read_result(path: Path) -> DeviceResult:
    """Read a result file.

    Raises:
        UsageError: missing, damaged, of another schema, or with statistics that its own times contradict.

    """
    return parse_result(read_json(path, "give the file that bench wrote, or run bench again"), str(path))


def parse_result(tree: Any, where: str) -> DeviceResult:
    """The content of a result file; raises as ``read_result``. ``where`` names it in errors."""
    if isinstance(tree, dict) and tree.get("schema") != SCHEMA:
        raise UsageError(
            where, f"has schema {tree.get('schema')!r}, this version reads {SCHEMA}", "run bench again with this version's bundle"
        )
    try:
        result = DeviceResult.model_validate(tree)
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(str(p) for p in first["loc"]) or "it"
        raise UsageError(where, f"is not the result of a benchmark ({place}: {first['msg'].lower()})", "run bench again") from None
    for name, timing in (("kernel", result.kernel), ("frame", result.frame)):
        if timing is not None:
            _check_statistics(where, name, timing)
    return result


def _check_statistics(where: str, name: str, timing: Timing) -> None:
    """Percentiles that the times do not give were written by hand, or by a script with a mistake."""
    import numpy as np

    if not timing.times_ms:
        return
    if len(timing.times_ms) != timing.count:
        what = f"{name}.count is {timing.count} and there are {len(timing.times_ms)} times"
        raise UsageError(where, what, "run bench again; a result is not to be edited")
    for key, q in (("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99)):
        stated, real = getattr(timing, key), float(np.percentile(timing.times_ms, q))
        if not math.isclose(stated, real, rel_tol=TOLERANCE, abs_tol=1e-3):
            what = f"{name}.{key} is {stated:.4g} and its times give {real:.4g}"
            raise UsageError(where, what, "run bench again; a result is not to be edited")
