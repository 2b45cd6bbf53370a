"""What a stage's work saves: networks or model files in ONNX Runtime on this host, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.latency import LatencyResult, compare, latency_measurements, speedup
from eval.quality import QualityResult, evaluate, session_restorer
from eval.session import load_backend
from pipeline.contract import Better, Evidence, Measurement, PairSource
from pipeline.machine import cores

if TYPE_CHECKING:
    from torch import nn

BACKEND = "onnxruntime"
THREADS = 1


@dataclass(frozen=True, slots=True)
class ModelFile:
    """An ONNX file of free image size and the precision that it runs in, "fp32" or "int8"."""

    path: Path
    precision: str

    @property
    def facts(self) -> Mapping[str, Any]:
        """What opens it (``eval.session``)."""
        return {"backend": f"compile.{BACKEND}", "precision": self.precision, "height": 0, "width": 0}


def time_files(files: Mapping[str, ModelFile], side: int, seconds: float, count: int = 10) -> dict[str, LatencyResult]:
    """Latency of each file on one square image, one thread, measured in turn.

    Args:
        files: name -> file.
        side: side of the image in pixels, a multiple that the networks take (``tile_side``).
        seconds: least time per file.
        count: least number of measured calls per file.

    Raises:
        ToolchainMissing: ONNX Runtime is not installed.
    """
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for name, file in files.items():
            session = load_backend(BACKEND).open(file.path, file.facts, THREADS)
            calls[name] = partial(stack.enter_context(session).run, image)
        return compare(calls, min_seconds=seconds, min_count=count)


def time_networks(networks: Mapping[str, nn.Module], workdir: Path, tile: int, seconds: float) -> dict[str, LatencyResult]:
    """Latency of each network as fp32 ONNX of constant size on one square image, one thread, measured in turn.

    Args:
        networks: name -> network, all of one size multiple.
        workdir: where ``<name>.onnx`` is written.
        tile: side of the image in pixels; rounded down to a multiple that the networks take.
        seconds: least time per network.

    Raises:
        ToolchainMissing: ONNX Runtime is not installed.
    """
    from models.export import export_onnx
    from models.spec import size_multiple

    side = tile_side(size_multiple(next(iter(networks.values()))), tile)
    files = {}
    for name, network in networks.items():
        files[name] = ModelFile(workdir / f"{name}.onnx", "fp32")
        export_onnx(network, files[name].path, height=side, width=side)
    return time_files(files, side, seconds)


def tile_side(multiple: int, tile: int) -> int:
    """``tile``, rounded down to a multiple of ``multiple`` and at least one of it."""
    return max(1, tile // multiple) * multiple


def speed_measurements(before: LatencyResult, after: LatencyResult, side: int, precision: str, against: str) -> list[Measurement]:
    """latency_p50 of what is handed on, and its speedup over what ``against`` names."""
    latency = latency_measurements(after, height=side, width=side, threads=THREADS, backend=BACKEND, precision=precision)[0]
    conditions = {**latency.conditions, "against": against}
    ratio = Measurement("speedup", speedup(before, after), "x", Better.HIGHER, len(after.ms), Evidence.HOST, conditions)
    return [latency, ratio]


def quality(file: ModelFile, multiple: int, source: PairSource, samples: Path) -> QualityResult:
    """Quality of the file as ONNX Runtime computes it, on all cores; the restored images are written to ``samples``.

    ``multiple``: height and width of the network's input are multiples of it.
    """
    with load_backend(BACKEND).open(file.path, file.facts, cores()) as session:
        return evaluate(session_restorer(session, multiple), source, samples)
