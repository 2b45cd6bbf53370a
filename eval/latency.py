"""Latency on this machine: single stream, warm-up apart, minimum duration and count, comparisons interleaved in one process.

The timing core knows nothing of networks: it calls functions. What it measures is true of this host only (evidence ``host``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.contract import Better, Evidence, Measurement
from pipeline.errors import StageFailed

UNSTABLE_CV = 0.5
"""Robust coefficient of variation above which a run is called unstable."""


@dataclass(frozen=True, slots=True)
class LatencyResult:
    """Times of repeated calls, in milliseconds, in the order they were taken."""

    ms: tuple[float, ...]

    def percentile(self, q: float) -> float:
        """The q-th percentile, 0-100, in ms."""
        return float(np.percentile(self.ms, q))

    @property
    def p50(self) -> float:
        """Median in ms."""
        return self.percentile(50)

    @property
    def p90(self) -> float:
        """90th percentile in ms."""
        return self.percentile(90)

    @property
    def p99(self) -> float:
        """99th percentile in ms."""
        return self.percentile(99)

    @property
    def cv(self) -> float:
        """Robust coefficient of variation: 1.4826 x median absolute deviation / median."""
        a = np.asarray(self.ms)
        return float(1.4826 * np.median(np.abs(a - np.median(a))) / np.median(a))

    @property
    def stable(self) -> bool:
        """Whether the spread is small enough for the figure to mean something."""
        return self.cv <= UNSTABLE_CV


def compare(
    calls: Mapping[str, Callable[[], object]], *, min_seconds: float = 1.0, min_count: int = 10, warmup: int = 2
) -> dict[str, LatencyResult]:
    """Time several functions in turn (A B C A B C ...), so that a drift of the machine meets them all.

    Args:
        calls: name -> function of no arguments.
        min_seconds: least total time of the measured calls of each function.
        min_count: least number of measured calls of each function.
        warmup: calls of each before measuring.

    Raises:
        StageFailed: no function given.

    """
    if not calls:
        raise StageFailed("eval.latency", "nothing to measure", "pass at least one function")
    for call in calls.values():
        for _ in range(warmup):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    while any(len(t) < min_count or sum(t) < min_seconds * 1e3 for t in times.values()):
        for name, call in calls.items():
            start = time.perf_counter_ns()
            call()
            times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: LatencyResult(tuple(t)) for name, t in times.items()}


def speedup(base: LatencyResult, other: LatencyResult) -> float:
    """How many times faster ``other`` is: the median of the ratios taken round by round of one ``compare``."""
    n = min(len(base.ms), len(other.ms))
    return float(np.median(np.asarray(base.ms[:n]) / np.asarray(other.ms[:n])))


def latency_measurements(result: LatencyResult, *, height: int, width: int, threads: int, **conditions: Any) -> list[Measurement]:
    """latency_p50, latency_p90 and latency_p99 in ms with evidence ``host``; conditions hold frame, threads and the spread."""
    base = {"frame": f"{width}x{height}", "threads": threads, "cv": round(result.cv, 4), "stable": result.stable, **conditions}
    n = len(result.ms)
    rows = (("latency_p50", result.p50), ("latency_p90", result.p90), ("latency_p99", result.p99))
    return [Measurement(name, value, "ms", Better.LOWER, n, Evidence.HOST, base) for name, value in rows]
