"""What pruning saves: networks as fp32 ONNX in ONNX Runtime on this host, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from eval.latency import LatencyResult, compare, latency_measurements, speedup
from eval.session import load_backend
from models.arch import size_multiple
from models.export import export_onnx
from pipeline.contract import Better, Evidence, Measurement

BACKEND = "onnxruntime"
THREADS = 1


def time_networks(networks: Mapping[str, nn.Module], workdir: Path, tile: int, seconds: float) -> dict[str, LatencyResult]:
    """Latency of each network on one square image, one thread, measured in turn.

    Args:
        networks: name -> network, all of one size multiple.
        workdir: where ``<name>.onnx`` is written.
        tile: side of the image in pixels; rounded down to a multiple that the networks take.
        seconds: least time per network.

    Raises:
        ToolchainMissing: ONNX Runtime is not installed.
    """
    side = tile_side(next(iter(networks.values())), tile)
    image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
    backend = load_backend(BACKEND)
    facts = {"backend": f"compile.{BACKEND}", "precision": "fp32", "height": side, "width": side}
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for name, network in networks.items():
            path = workdir / f"{name}.onnx"
            export_onnx(network, path, height=side, width=side)
            calls[name] = partial(stack.enter_context(backend.open(path, facts, THREADS)).run, image)
        return compare(calls, min_seconds=seconds)


def tile_side(network: nn.Module, tile: int) -> int:
    """``tile``, rounded down to a multiple that the network takes."""
    multiple = size_multiple(network)
    return max(1, tile // multiple) * multiple


def speed_measurements(before: LatencyResult, after: LatencyResult, side: int) -> list[Measurement]:
    """latency_p50 of the network that is handed on, and its speedup over the input of the stage."""
    latency = latency_measurements(after, height=side, width=side, threads=THREADS, backend=BACKEND, precision="fp32")[0]
    conditions = {**latency.conditions, "against": "the stage's input"}
    ratio = Measurement("speedup", speedup(before, after), "x", Better.HIGHER, len(after.ms), Evidence.HOST, conditions)
    return [latency, ratio]
