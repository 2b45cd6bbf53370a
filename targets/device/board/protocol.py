"""How times are taken and judged: one stream, warm-up apart, a least time and a least count, an unstable run refused with the reason."""

import time
from typing import Any, Callable, List

import numpy as np
from board.basics import Json

MOST_CV = 0.2
"""Largest robust coefficient of variation of a stable run (our choice: a quiet board shows 0.01 to 0.05)."""

MOST_DRIFT = 0.1
"""Largest change of the median between the first and the last third of a stable run (our choice)."""


def repeat(once: Callable[[], float], seconds: float, count: int) -> List[float]:
    """Times in ms of calls, until both the least time and the least count are reached; ``once`` returns its own time in ms."""
    times: List[float] = []
    start = time.perf_counter()
    while len(times) < count or time.perf_counter() - start < seconds:
        times.append(once())
    return times


def warm_up(once: Callable[[], float], seconds: float) -> None:
    """Call at least three times and for at least ``seconds``."""
    repeat(once, seconds, 3)


def timed(function: Callable[[], Any]) -> float:
    """Time of one call in ms."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def robust_cv(times: List[float]) -> float:
    """1.4826 x median absolute deviation / median."""
    middle = float(np.median(times))
    return 1.4826 * float(np.median(np.abs(np.asarray(times) - middle))) / middle


def drift(times: List[float]) -> float:
    """Median of the last third over that of the first, less 1; 0 for fewer than nine times."""
    third = len(times) // 3
    return float(np.median(times[-third:]) / np.median(times[:third])) - 1 if third >= 3 else 0.0


def statistics(times: List[float]) -> Json:
    """Percentiles and mean in ms, robust coefficient of variation, drift, count and the times themselves in their order."""
    p50, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99))
    found = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "mean_ms": float(np.mean(times)), "cv": robust_cv(times), "drift": drift(times)}
    return dict(found, count=len(times), times_ms=[round(t, 4) for t in times])


def why_unstable(times: Json, what: str) -> List[str]:
    """Why figures of ``statistics`` are not to be trusted; [] when they are. NaN is not to be trusted."""
    found = []
    if not times["cv"] <= MOST_CV:
        found.append(
            f"{what} times spread by {times['cv']:.0%} of their median (at most {MOST_CV:.0%}): close other programs, lock the clocks"
        )
    if not abs(times["drift"]) <= MOST_DRIFT:
        way = "rose" if times["drift"] > 0 else "fell"
        found.append(
            f"{what} times {way} by {abs(times['drift']):.0%} during the run (at most {MOST_DRIFT:.0%}): cool the board, warm up longer"
        )
    return found
