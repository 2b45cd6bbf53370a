"""From the teacher to what is shipped: quality, work, size and speed of every stage of a run, timed in turn on this host.

    python benchmarks/shipped.py RUN [--teacher FILE] [--target jetson-xavier] [--side 256] [--seconds 20]

RUN is a finished run's folder, e.g. ``.pipeline/runs/latest``. Every network that a stage handed on runs as fp32 in ONNX Runtime, and
the artifact that the run chose for this machine in its own runtime: one thread, one tile (the artifact's own size where it is fixed),
one process. They take turns, ten rounds or more; in its turn a network restores the tile as often as fits into a tenth of a second (at
least once) and counts with the mean, so that one of a few milliseconds runs as it does in a stream, not with the caches that another left
behind, and does not wait for hundreds of rounds of a teacher two orders of magnitude slower. Ratios are medians over the rounds, to the
first stage's network, or to ``--teacher``, a checkpoint. PSNR, parameters and MACs are those of the run's report; the size is the
artifact's file; milliseconds of the target's frame are its estimator's. Exit code 1 below a goal, or where timings were unstable.
"""

# ruff: noqa: E402 - the search path is set before the packages are imported
from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this file's own folder would hide the package of its name

import numpy as np

from eval.bundle import Bundle, BundleArtifact, artifact_layers
from eval.latency import LatencyResult, compare, speedup
from eval.payoff import ModelFile
from eval.session import Session, load_backend, open_session
from models import checkpoint
from models.export import export_onnx
from pipeline.target import load_target
from targets.estimator import estimate

SHIPPED = "shipped"


GOAL_RATIO, GOAL_MB = 60.0, 3.2
ROUNDS, TURN_MS = 10, 100.0


def main() -> int:
    """Time, print one table and the figures that count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--teacher", type=Path, help="a checkpoint that ratios are to; default: the run's first network")
    parser.add_argument("--target", default="jetson-xavier", help="whose frame is estimated")
    parser.add_argument("--side", type=int, default=256, help="side of the tile in pixels, where the artifact takes any")
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time of all together, once there were ten rounds")
    options = parser.parse_args()
    report = json.loads((options.run / "report.json").read_text())
    if not report.get("bundle"):
        parser.error(f"{options.run} has no bundle: its verdict is {report['verdict']}")
    bundle = Bundle.open(options.run / report["bundle"])
    artifact = bundle.artifact(bundle.facts.host)
    networks = _networks(report, options)
    height, width = artifact.height or options.side, artifact.width or options.side
    times = _times(networks, bundle, artifact, (height, width), options.seconds)
    teacher = next(iter(times))
    print(f"{'network':<12}{'PSNR':>8}{'M params':>10}{'GMACs':>8}{'MB':>8}{'p50':>10}{'cv':>6}{'faster':>9}")
    for name, result in times.items():
        rows = _rows(report, "benchmark" if name == SHIPPED else name)
        size = artifact.bytes / 1e6 if name == SHIPPED else rows.get("size", float("nan"))
        figures = "".join(f"{rows.get(n, float('nan')):{form}}" for n, form in (("psnr", "8.2f"), ("params", "10.3f"), ("macs", "8.2f")))
        print(f"{name:<12}{figures}{size:8.2f}{result.p50:8.2f}ms{result.cv:6.2f}{speedup(times[teacher], result):8.1f}x")
    stable = all(result.stable for result in times.values())
    print(f"{artifact.name}; {width}x{height} pixels, one thread{'' if stable else ', UNSTABLE'}; PSNR on {_samples(report)} test images")
    if not stable:
        print("the machine was not quiet: the ratio proves nothing; run again when nothing else does")
    return int(not stable) | _verdict(speedup(times[teacher], times[SHIPPED]), bundle, artifact, options.target)


def _verdict(ratio: float, bundle: Bundle, artifact: BundleArtifact, name: str) -> int:
    """Print the three figures beside their goals; 1 where one is missed."""
    target = load_target(name)
    choice, multiple = target.backends[0], bundle.facts.network.size_multiple
    height, width = (-(-side // multiple) * multiple for side in (target.frame.height, target.frame.width))
    layers = artifact_layers(bundle.path / artifact.reference, height, width, "fp16" if choice.runs_on == "gpu" else "fp32")
    made, megabytes = estimate(layers, target.rates[choice.runs_on], backend=choice.use), artifact.bytes / 1e6
    frame = f"{target.frame.width}x{target.frame.height}"
    print(f"ratio     {ratio:.1f}x (goal: at least {GOAL_RATIO:g}x)")
    print(f"size      {megabytes:.3f} MB (goal: at most {GOAL_MB:g} MB)")
    print(f"{name} {made.ms:.2f} ms at {frame}, estimated by {made.model} (goal: at most {target.latency_budget_ms:g} ms)")
    return int(not (ratio >= GOAL_RATIO and megabytes <= GOAL_MB and made.ms <= target.latency_budget_ms))


def _networks(report: dict[str, Any], options: argparse.Namespace) -> dict[str, Path]:
    """Checkpoints by the name of their row, the one that ratios are to first."""
    found = {"teacher": options.teacher} if options.teacher is not None else {}
    for stage in report["stages"]:
        output = stage["outputs"].get("model")
        if output is not None and output["kind"] == "checkpoint":
            found[stage["id"]] = options.run / output["path"]
    return found


def _times(
    networks: dict[str, Path], bundle: Bundle, artifact: BundleArtifact, size: tuple[int, int], seconds: float
) -> dict[str, LatencyResult]:
    image = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for name, path in networks.items():
            calls[name] = partial(stack.enter_context(_as_onnx(path, Path(folder) / f"{name}.onnx", size)).run, image)
        session = open_session(bundle.path / artifact.path, artifact.facts, 1)
        calls[SHIPPED] = partial(stack.enter_context(session).run, image)
        return in_turns(calls, seconds)


def in_turns(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, LatencyResult]:
    """Milliseconds of one call of each function: means over its turns of about ``TURN_MS``, which take turns for ``seconds`` in all."""
    once = compare(calls, min_seconds=0, min_count=2, warmup=1)
    times = {name: max(1, round(TURN_MS / result.p50)) for name, result in once.items()}
    turn = sum(times[name] * result.p50 for name, result in once.items()) / 1e3
    turns = {name: partial(_repeat, call, times[name]) for name, call in calls.items()}
    found = compare(turns, min_seconds=0, min_count=max(ROUNDS, round(seconds / turn)), warmup=1)
    return {name: LatencyResult(tuple(ms / times[name] for ms in result.ms)) for name, result in found.items()}


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


def _as_onnx(model: Path, path: Path, size: tuple[int, int]) -> Session:
    export_onnx(checkpoint.load(model).module, path, height=size[0], width=size[1])
    return load_backend("onnxruntime").open(path, ModelFile(path, "fp32").facts, 1)


def _rows(report: dict[str, Any], stage: str) -> dict[str, float]:
    found = next((s for s in report["stages"] if s["id"] == stage), {"measurements": []})
    return {m["name"]: m["value"] for m in reversed(found["measurements"])}


def _samples(report: dict[str, Any]) -> int:
    rows = [m for s in report["stages"] for m in s["measurements"] if m["name"] == "psnr"]
    return max((m["samples"] for m in rows), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
