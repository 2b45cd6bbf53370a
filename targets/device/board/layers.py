"""ONNX Runtime's own profile of a network: milliseconds by layer."""

import json
import tempfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
from board.basics import Json, read_text

RUNS = 5


def profiled(opened: Callable[[Any], Any], name: str, x: Any) -> Json:
    """Profile some runs.

    Args:
        opened: takes the session's options and returns the session.
        name: of the input.
        x: float32 [1, 3, H, W].

    Returns:
        {"runs": N, "rows": [{"name", "ms"}]} in the order of execution, the median over the runs but the first; {} where the runtime's
        profile says nothing.

    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        session = opened(options)
        for _ in range(RUNS + 1):
            session.run(None, {name: x})
        return parse(read_text(Path(session.end_profiling())))


def parse(text: str) -> Json:
    """As ``profiled``, of what the runtime wrote for ``RUNS`` + 1 runs."""
    try:
        ends = [e for e in json.loads(text) if e.get("cat") == "Node" and str(e["name"]).endswith("_kernel_time")]
        ran = [(str(e["name"])[: -len("_kernel_time")], float(e["dur"]) / 1e3) for e in ends]
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    each = len(ran) // (RUNS + 1)
    if not each or len(ran) % (RUNS + 1):
        return {}
    times = np.median(np.array([ms for _, ms in ran]).reshape(RUNS + 1, each)[1:], axis=0)
    return {"runs": RUNS, "rows": [{"name": ran[n][0], "ms": float(times[n])} for n in range(each)]}
