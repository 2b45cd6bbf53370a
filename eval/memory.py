"""How much memory a piece of work takes beyond what the process holds already (Linux)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.contract import Better, Evidence, Measurement
from pipeline.errors import StageFailed

T = TypeVar("T")

_SELF = Path("/proc/self")


def peak_above(work: Callable[[], T]) -> tuple[T, int]:
    """Run something; return its result, and the highest resident set during it less the resident set before it, in bytes.

    Raises:
        StageFailed: this system has no /proc that tells.

    """
    try:
        (_SELF / "clear_refs").write_text("5")  # the high-water mark starts again from here
    except OSError as e:
        raise StageFailed("peak memory", f"/proc/self/clear_refs cannot be written ({e.strerror})", "measure it on Linux") from None
    before = _resident("VmRSS")
    result = work()
    return result, max(0, _resident("VmHWM") - before)


def memory_measurement(peak: int, evidence: Evidence = Evidence.HOST, **conditions: object) -> Measurement:
    """peak_memory, in bytes above the loaded model; ``conditions`` say of what."""
    return Measurement("peak_memory", float(peak), "B", Better.LOWER, 1, evidence, {"above": "the loaded model", **conditions})


def _resident(name: str) -> int:
    lines = (_SELF / "status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
