"""ONNX Runtime's own profile of a network, as milliseconds by layer of the ONNX file."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def node_times(path: Path, lq: NDArray[np.float32], names: Sequence[str], count: int = 12) -> dict[str, float]:
    """Milliseconds by layer, one thread.

    Args:
        path: ONNX file.
        lq: float32 [1, 3, H, W].
        names: of the file's layers. What the runtime adds (reordering, Q, DQ, parts of an activation) counts to the layer before it,
            or to "frame" before the first.
        count: runs.

    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(count):
            session.run(None, {session.get_inputs()[0].name: lq})
        events = json.loads(Path(session.end_profiling()).read_text())
    ends = (e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"))
    return _by_layer([(e["name"].removesuffix("_kernel_time"), e["dur"] / 1e3) for e in ends], names, count)


def _by_layer(ran: list[tuple[str, float]], names: Iterable[str], count: int) -> dict[str, float]:
    per_run = len(ran) // count
    times = np.array([ms for _, ms in ran]).reshape(count, per_run)
    quiet = times[1:].min(axis=0)  # what else the machine does only ever adds time
    known = sorted(names, key=len, reverse=True)
    found: dict[str, float] = defaultdict(float)
    layer = "frame"
    for (node, _), ms in zip(ran[:per_run], quiet, strict=True):
        layer = next((name for name in known if node.startswith(name)), layer)
        found[layer] += float(ms)
    return dict(found)
