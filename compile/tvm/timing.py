"""One function by itself: as a module, as an executable, and its time on this machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

_ROUNDS = 5
_PATIENCE = 4
"""A schedule that takes this many times the fastest so far is not run again."""


def alone(func: Any) -> Any:
    """The function as the "main" of a module of its own."""
    import tvm

    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def built(func: Any, target: Any) -> Any | None:
    """TVM's executable of a scheduled function; None where the code generator cannot do what the schedule asks for."""
    import tvm

    try:
        return tvm.compile(alone(func), target=target)
    except (RuntimeError, ValueError, TypeError):
        return None


def time_here(candidate: Any, target: Any, fastest: float) -> float:
    """Time a candidate on one thread of this machine: the lower quartile of its CPU time in seconds, which other work hardly moves."""
    import tvm

    func = candidate.sch.mod["main"]
    library = built(func, target)
    if library is None:
        return float("inf")
    tvm.get_global_func("runtime.config_threadpool")(1, 1)
    rng = np.random.default_rng(0)
    given = [tvm.runtime.tensor(rng.random(tuple(int(d) for d in p.shape)).astype(str(p.dtype))) for p in func.params]
    library["main"](*given)  # LLVM writes the code at the first call
    times: list[float] = []
    while len(times) < _ROUNDS and min(times, default=0.0) < _PATIENCE * fastest:
        start = time.thread_time()
        library["main"](*given)
        times.append(time.thread_time() - start)
    return float(np.percentile(times, 25))
