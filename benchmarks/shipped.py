"""From the teacher to what is shipped: quality, work, size and speed of every stage of a run, timed in turn on this host.

    python benchmarks/shipped.py RUN [--side 256] [--seconds 5]

RUN is a run's folder for target ``host``, e.g. ``.pipeline/runs/latest``. Every network that a stage handed on runs as fp32 in ONNX
Runtime, and the artifact that the run chose in its own runtime: one thread, one tile, one process, calls interleaved. Ratios are to
the teacher. PSNR, parameters and MACs are those of the run's report; the size is the artifact's file.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would hide the package of its name

import numpy as np

from eval.bundle import Bundle
from eval.latency import compare, speedup
from eval.payoff import ModelFile, tile_side
from eval.session import load_backend, open_session
from models import checkpoint
from models.export import export_onnx
from models.spec import size_multiple


def main() -> None:
    """Time, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--side", type=int, default=256, help="side of the tile in pixels")
    parser.add_argument("--seconds", type=float, default=5.0, help="least measuring time of each")
    options = parser.parse_args()
    report = json.loads((options.run / "report.json").read_text())
    image = np.random.default_rng(0).random((1, 3, options.side, options.side), dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for stage in report["stages"]:
            output = stage["outputs"].get("model")
            if output is not None and output["kind"] == "checkpoint":
                session = _as_onnx(options.run / output["path"], Path(folder) / f"{stage['id']}.onnx", options.side)
                calls[stage["id"]] = partial(stack.enter_context(session).run, image)
        bundle = Bundle.open(options.run / report["bundle"])
        artifact = bundle.artifact(bundle.facts.host)
        session = open_session(bundle.path / artifact.path, artifact.facts, 1)
        calls["compile"] = partial(stack.enter_context(session).run, image)
        times = compare(calls, min_seconds=options.seconds, min_count=5)
    teacher = next(iter(times))
    print(f"{'stage':<12}{'PSNR':>8}{'params':>12}{'GMACs':>8}{'MB':>8}{'p50':>10}{'cv':>6}{'faster':>9}")
    for name, result in times.items():
        rows = _rows(report, "benchmark" if name == "compile" else name)
        size = artifact.bytes / 1e6 if name == "compile" else rows.get("size", float("nan"))
        figures = (
            f"{rows.get('psnr', float('nan')):8.2f}{rows.get('params', float('nan')):12.0f}{rows.get('macs', float('nan')):8.2f}{size:8.2f}"
        )
        print(f"{name:<12}{figures}{result.p50:8.2f}ms{result.cv:6.2f}{speedup(times[teacher], result):8.1f}x")
    print(f"artifact: {artifact.name}; {options.side}x{options.side} pixels, one thread; PSNR on {_samples(report)} test images")


def _as_onnx(model: Path, path: Path, side: int) -> Any:
    network = checkpoint.load(model).module
    exact = tile_side(size_multiple(network), side)
    export_onnx(network, path, height=exact, width=exact)
    return load_backend("onnxruntime").open(path, ModelFile(path, "fp32").facts, 1)


def _rows(report: dict[str, Any], stage: str) -> dict[str, float]:
    found = next((s for s in report["stages"] if s["id"] == stage), {"measurements": []})
    return {m["name"]: m["value"] for m in reversed(found["measurements"])}


def _samples(report: dict[str, Any]) -> int:
    rows = [m for s in report["stages"] for m in s["measurements"] if m["name"] == "psnr"]
    return max((m["samples"] for m in rows), default=0)


if __name__ == "__main__":
    main()
