"""A result's numbers as measurements with evidence ``target``, and the predictions beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.contract import Better, Evidence, Measurement
from pipeline.ingest.result import DeviceResult, Timing
from pipeline.target import Target

ERROR = "estimate_error_"


def measurements(result: DeviceResult, target: Target, replayed: bool) -> list[Measurement]:
    """All that a result says, as a run's report holds it.

    ``latency_*`` is the time of one frame of the target: the network's own where one run of it takes a whole frame, else decoded file
    to stitched output, for nothing else was measured; ``conditions.scope`` says which. What one run of a tile takes is
    ``tile_latency_*``.

    Args:
        result: a checked result.
        target: the run's target.
        replayed: the numbers were recorded earlier and are not of a benchmark of this run; ``conditions.replayed`` then says so.

    """
    common: dict[str, Any] = {"artifact": result.artifact, "precision": result.precision, "board": str(result.identity.get("model") or "")}
    mode: Any = result.identity.get("power_mode")
    mode = mode.get("name") if isinstance(mode, Mapping) else mode
    common |= {"threads": result.protocol.threads} if result.protocol.threads else {}
    common |= {"power_mode": str(mode)} if mode else {}
    common |= {"started": result.started} | ({"replayed": True} if replayed else {})
    rows = [*_timings(result, target, common), *_samples(result, common)]
    return [r for r in rows if math.isfinite(r.value)]


def _timings(result: DeviceResult, target: Target, common: dict[str, Any]) -> Iterator[Measurement]:
    frame = (target.frame.height, target.frame.width)
    kernel = kernel_size(result)
    whole = _size(result.frame, result.protocol.frame) if result.frame else None
    covers = kernel is not None and kernel[0] >= frame[0] and kernel[1] >= frame[1]
    label = f"{target.frame.width}x{target.frame.height}"
    if result.kernel and covers:
        yield from _rows("latency", result.kernel, {**common, "frame": label, "scope": "network"})
    elif result.frame and whole == frame:
        yield from _rows("latency", result.frame, {**common, "frame": label, "scope": "decoded file to stitched output"})
    if result.kernel and kernel and not covers:
        yield from _rows("tile_latency", result.kernel, {**common, "frame": f"{kernel[1]}x{kernel[0]}"})
    if result.frame and whole:
        yield from _rows("frame_latency", result.frame, {**common, "frame": f"{whole[1]}x{whole[0]}"})


def kernel_size(result: DeviceResult) -> tuple[int, int] | None:
    """Height and width in pixels of what one run of the network takes; None where it was not timed alone, or it is not said."""
    return _size(result.kernel, result.protocol.input) if result.kernel else None


def _size(timing: Timing, stated: tuple[int, int] | None) -> tuple[int, int] | None:
    return (timing.height, timing.width) if timing.height and timing.width else stated


def _rows(name: str, timing: Timing, conditions: dict[str, Any]) -> Iterator[Measurement]:
    conditions = {**conditions, "cv": round(timing.cv, 4), "stable": True}
    for key in ("p50", "p90", "p99"):
        yield _row(f"{name}_{key}", getattr(timing, f"{key}_ms"), "ms", timing.count, conditions)


def _samples(result: DeviceResult, common: dict[str, Any]) -> Iterator[Measurement]:
    if result.golden.psnr is not None and not result.golden.identical:
        yield Measurement("golden_psnr", result.golden.psnr, "dB", Better.HIGHER, 1, Evidence.TARGET, common)
    samples = result.samples
    if samples and samples.energy_mj_per_frame is not None:
        yield _row("energy", samples.energy_mj_per_frame, "mJ", 1, common)
    if samples and samples.peak_rss_mb is not None:
        yield _row("peak_memory", samples.peak_rss_mb, "MB", 1, common)


def _row(name: str, value: float, unit: str, samples: int, conditions: dict[str, Any]) -> Measurement:
    return Measurement(name, value, unit, Better.LOWER, samples, Evidence.TARGET, conditions)


def prediction_errors(before: Sequence[Measurement], measured: Sequence[Measurement], artifact: str) -> list[Measurement]:
    """How far each estimate was off what the board then showed, in % of the measured value (positive: the estimate was too high)."""
    found = []
    for row in measured:
        same = (m for m in before if m.name == row.name and m.evidence is Evidence.ESTIMATED)
        guess = next((m for m in same if m.conditions.get("artifact", artifact) == artifact), None)
        if guess is None or guess.unit != row.unit or not row.value:
            continue
        kept = {k: row.conditions[k] for k in ("artifact", "frame", "scope", "board", "replayed") if k in row.conditions}
        conditions = {"predicted": guess.value, "measured": row.value, "in": row.unit, **kept}
        error = 100 * (guess.value - row.value) / row.value
        found.append(Measurement(f"{ERROR}{row.name}", error, "%", Better.LOWER, row.samples, Evidence.TARGET, conditions))
    return found
