"""Statistics of repeated timings, as the device's own script gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

STABLE_CV = 0.2
"""Largest coefficient of variation of a timing that counts as stable."""


def statistics(times_ms: Sequence[float]) -> dict[str, Any]:
    """Percentiles (linear interpolation), mean, and the robust coefficient of variation (1.4826 x median absolute deviation / median).

    Args:
        times_ms: at least one time in milliseconds.

    """
    import numpy as np

    times = np.asarray(times_ms, dtype=np.float64)
    p50, p90, p99 = (float(v) for v in np.percentile(times, (50, 90, 99)))
    cv = 1.4826 * float(np.median(np.abs(times - p50))) / p50 if p50 > 0 else math.inf
    row = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "mean_ms": float(times.mean()), "cv": cv, "count": len(times_ms)}
    return {**row, "times_ms": [round(t, 4) for t in times_ms]}
