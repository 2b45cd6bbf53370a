"""What int8 saves: the fp32 and the int8 file in ONNX Runtime on this host, timed in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eval.latency import LatencyResult, compare, latency_measurements, speedup
from eval.quality import QualityResult, evaluate, session_restorer
from eval.session import load_backend
from pipeline.contract import Better, Evidence, Measurement, PairSource
from quantize.artifact import ModelFolder

BACKEND = "onnxruntime"
THREADS = 1


def file_of(folder: ModelFolder, precision: str) -> Path:
    """The file that ONNX Runtime runs at a precision, "fp32" or "int8"."""
    return folder.qdq("u8") if precision == "int8" else folder.float


def time_precisions(folder: ModelFolder, tile: int, seconds: float) -> dict[str, LatencyResult]:
    """Latency of each precision of the folder on one square image, one thread, measured in turn.

    Args:
        folder: the model.
        tile: side of the image in pixels; rounded down to a multiple that the network takes.
        seconds: least time per precision.

    Raises:
        ToolchainMissing: ONNX Runtime is not installed.
    """
    side = tile_side(folder, tile)
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for precision in folder.facts.precisions:
            session = load_backend(BACKEND).open(file_of(folder, precision), _facts(precision), THREADS)
            calls[precision] = partial(stack.enter_context(session).run, image)
        return compare(calls, min_seconds=seconds)


def tile_side(folder: ModelFolder, tile: int) -> int:
    """``tile``, rounded down to a multiple that the network takes."""
    return max(1, tile // folder.size_multiple) * folder.size_multiple


def speed_measurements(times: Mapping[str, LatencyResult], precision: str, side: int) -> list[Measurement]:
    """latency_p50 of the file that is handed on, and its speedup over the fp32 file."""
    result = times[precision]
    latency = latency_measurements(result, height=side, width=side, threads=THREADS, backend=BACKEND, precision=precision)[0]
    conditions = {**latency.conditions, "against": "fp32"}
    ratio = Measurement("speedup", speedup(times["fp32"], result), "x", Better.HIGHER, len(result.ms), Evidence.HOST, conditions)
    return [latency, ratio]


def quality(folder: ModelFolder, precision: str, source: PairSource, samples: Path) -> QualityResult:
    """Quality of the file as ONNX Runtime computes it, on all cores; the restored images are written to ``samples``."""
    with load_backend(BACKEND).open(file_of(folder, precision), _facts(precision), os.cpu_count() or 1) as session:
        return evaluate(session_restorer(session, folder.size_multiple), source, samples)


def _facts(precision: str) -> Mapping[str, Any]:
    return {"backend": f"compile.{BACKEND}", "precision": precision, "height": 0, "width": 0}
