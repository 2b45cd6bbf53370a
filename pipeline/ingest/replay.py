"""A folder of recorded outputs as a result: TensorRT's own exports, or a result.json of another day.

::

    result.json    a whole result; then nothing else is read
    device.json    what the board said of itself: the facts that the target recognises it by
    times.json     trtexec --exportTimes
    output.json    trtexec --exportOutput for the golden input
    profile.json   trtexec --exportProfile, where the estimate's error by kind of operator is wanted too
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline.arrays import read_array
from pipeline.errors import UsageError
from pipeline.ingest.result import SCHEMA, DeviceResult, parse_result, read_result
from pipeline.runs import read_json

STABLE_CV = 0.2
"""Largest robust coefficient of variation of recorded times that count as stable."""


def read_replay(folder: Path, bundle: Any, bundle_sha256: str, name: str = "") -> DeviceResult:
    """Read recorded outputs.

    Args:
        folder: see above.
        bundle: the run's bundle, an ``eval.bundle.Bundle``.
        bundle_sha256: hash of its manifest; recorded exports do not name a bundle, their output is held against this one's.
        name: the artifact, by default the chosen one.

    Raises:
        UsageError: a file is missing or not what its name says.

    """
    if (folder / "result.json").is_file():
        return read_result(folder / "result.json")
    artifact = bundle.artifact(name)
    hint = "a replay needs device.json, times.json and output.json, or a whole result.json"
    device = read_json(folder / "device.json", hint)
    timing = _timing(folder / "times.json", hint)
    psnr = _golden(folder / "output.json", hint, bundle.path, artifact.golden)
    height, width = _golden_size(bundle.path, artifact.golden)
    tree = {
        "schema": SCHEMA,
        "bundle_sha256": bundle_sha256,
        "artifact": artifact.name,
        "precision": artifact.precision,
        "verified": psnr >= artifact.golden.psnr_at_least,
        "golden": {"psnr": psnr if math.isfinite(psnr) else None, "identical": psnr == math.inf},
        "device": device,
        "kernel": {**timing, "height": height, "width": width},
        "layers": _profile(folder / "profile.json"),
        "stable": timing["cv"] <= STABLE_CV,
        "unstable_reason": f"the recorded times vary by {100 * timing['cv']:.0f} %, at most {100 * STABLE_CV:.0f} %",
        "started": str(device.get("recorded", "")) if isinstance(device, dict) else "",
    }
    return parse_result(tree, str(folder))


def _timing(path: Path, hint: str) -> dict[str, Any]:
    """Statistics of ``latencyMs`` (copy in, compute, copy out) of every run in trtexec's export."""
    import numpy as np

    rows = read_json(path, hint)
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and _positive(r.get("latencyMs")) for r in rows):
        raise UsageError(str(path), "is not what trtexec --exportTimes writes: a list of runs with latencyMs", "record it again")
    times = np.asarray([r["latencyMs"] for r in rows], dtype=np.float64)
    p50, p90, p99 = (float(v) for v in np.percentile(times, (50, 90, 99)))
    cv = 1.4826 * float(np.median(np.abs(times - p50))) / p50
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "cv": cv, "count": len(rows), "times_ms": times.tolist()}


def _profile(path: Path) -> dict[str, Any] | None:
    """Layers of trtexec's export, whose first entry is {"count": runs}; None where there is no such file."""
    if not path.exists():
        return None
    rows = read_json(path, "")
    try:
        found = [{"name": str(r["name"]), "ms": float(r["averageMs"])} for r in rows if "name" in r]
        runs = next(int(r["count"]) for r in rows if "count" in r)
    except (KeyError, TypeError, ValueError, StopIteration):
        raise UsageError(
            str(path), "is not what trtexec --exportProfile writes: a count and layers with averageMs", "record it again"
        ) from None
    return {"runs": runs, "rows": found}


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def _golden(path: Path, hint: str, bundle: Path, golden: Any) -> float:
    """PSNR in dB of a recorded output against the bundle's, as the device's script computes it."""
    import numpy as np

    rows = read_json(path, hint)
    want = read_array(bundle / golden.expected)
    try:
        got = np.asarray(rows[0]["values"], dtype=np.float64).reshape(want.shape)
    except (KeyError, IndexError, TypeError, ValueError):
        what = f"is not what trtexec --exportOutput writes for this bundle: one tensor of {'x'.join(map(str, want.shape))}"
        raise UsageError(str(path), what, "record it with this bundle's golden input") from None
    if want.dtype == np.uint8:
        got, want = np.rint(np.clip(got, 0, 1) * 255) / 255, want / 255.0
    mse = float(np.mean(np.square(got - want)))
    return math.inf if mse == 0 else -10 * math.log10(mse) if math.isfinite(mse) else math.nan


def _golden_size(bundle: Path, golden: Any) -> tuple[int, int]:
    height, width = read_array(bundle / golden.input).shape[2:]
    return int(height), int(width)
