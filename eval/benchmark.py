"""Benchmark the bundle: quality of the compiled artifact, latency measured on this host, latency estimated for the target."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.contract import Better, Evidence, Kind, Measurement, Output, StageContext, StageResult, StageSpec
from pipeline.errors import StageFailed

if TYPE_CHECKING:
    from eval.bundle import Bundle, BundleArtifact
    from eval.quality import Image
    from eval.restorers import Restorer
    from targets.estimator import Estimate


class BenchmarkConfig(BaseModel):
    """How long this host is timed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int = Field(default=1, ge=1, description="CPU threads of the timing on this host")
    seconds: float = Field(default=3.0, ge=0, description="least time that each figure is measured for")
    count: int = Field(default=5, ge=1, description="least number of runs behind each figure")


def run(ctx: StageContext) -> StageResult:
    """Restore ``test`` with the artifact chosen for the target, time this host's artifact, estimate the target, run the device script."""
    from eval.bundle import Bundle

    bundle = Bundle.open(ctx.inputs["bundle"].path)
    chosen, local = bundle.artifact(), bundle.artifact(bundle.facts.host)
    samples, report = ctx.workdir / "samples", ctx.workdir / "estimate.json"
    rows = _quality(bundle, chosen, ctx, samples)
    estimated, estimate_rows = _estimate(bundle, chosen, ctx)
    rows += [*estimate_rows, *_host_latency(bundle, local, ctx)]
    report.write_text(json.dumps(_layers_json(estimated, chosen), indent=1) + "\n", encoding="utf-8")
    notes = [_bound_note(estimated, ctx.target.name), _device_script(bundle, local, ctx)]
    if chosen.stands_in:
        notes.append(
            f"{chosen.name} itself needs the device: its quality was judged on the file that the device builds it from, "
            f"run by {chosen.evaluation.facts['backend'].rpartition('.')[2]} on this host"
        )
    outputs = {"samples": Output(Kind.SAMPLES, samples), "estimate": Output(Kind.REPORT, report)}
    return StageResult(outputs, rows, notes=notes)


def _restorer(bundle: Bundle, artifact: BundleArtifact, threads: int) -> Restorer:
    from eval.restorers import bundle_restorer

    return bundle_restorer(bundle, artifact.name, threads)


def _quality(bundle: Bundle, chosen: BundleArtifact, ctx: StageContext, samples: Path) -> list[Measurement]:
    from eval.cost import size_measurement
    from eval.quality import evaluate

    with _restorer(bundle, chosen, ctx.config.threads) as restorer:
        quality = evaluate(restorer, ctx.data["test"], samples)
    stand_in = {"stands_in": chosen.evaluation.facts["backend"]} if chosen.stands_in else {}
    conditions = {"artifact": chosen.name, "precision": chosen.precision, **stand_in}
    return [*quality.measurements(**conditions), size_measurement(bundle.path / chosen.path)]


def _estimate(bundle: Bundle, chosen: BundleArtifact, ctx: StageContext) -> tuple[Estimate, list[Measurement]]:
    """Roofline estimate at the target's frame; p90 is the estimate times the target's stated jitter."""
    from eval.cost import rates_of
    from targets.estimator import estimate

    frame, multiple = ctx.target.frame, bundle.facts.network.size_multiple
    height, width = (-(-side // multiple) * multiple for side in (frame.height, frame.width))
    threads = int(chosen.facts.get("threads", 1))  # as many as it will run with there
    rates = rates_of(ctx.target, chosen.runs_on, threads)
    made = estimate(bundle.layers(chosen.name, height, width), rates, backend=chosen.backend)
    conditions = {"model": made.model, "artifact": chosen.name, "frame": f"{frame.width}x{frame.height}", "runs_on": chosen.runs_on}
    conditions |= {"padded_to": f"{width}x{height}", "p90_over_p50": ctx.target.jitter_p90}
    conditions |= {"threads": threads} if chosen.runs_on == "cpu" else {}
    rows = [
        _latency("latency_p50", made.ms, Evidence.ESTIMATED, conditions),
        _latency("latency_p90", made.ms * ctx.target.jitter_p90, Evidence.ESTIMATED, conditions),
    ]
    return made, rows


def _latency(name: str, ms: float, evidence: Evidence, conditions: dict[str, Any]) -> Measurement:
    return Measurement(name, ms, "ms", Better.LOWER, 1, evidence, conditions)


def _host_latency(bundle: Bundle, local: BundleArtifact, ctx: StageContext) -> list[Measurement]:
    """latency_* of the bare network and frame_latency_p50 from encoded image to restored pixels, at the target's frame size."""
    import cv2
    import numpy as np

    from eval.latency import compare, latency_measurements

    frame, config = ctx.target.frame, ctx.config
    image = _frame(ctx.data["test"][0].lq, frame.height, frame.width)
    encoded = cv2.imencode(".png", image[:, :, ::-1])[1]
    with _restorer(bundle, local, config.threads) as restorer:
        calls: dict[str, Callable[[], object]] = {
            "tensor": _network_calls(restorer, image),
            "frame": lambda: restorer(np.ascontiguousarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[:, :, ::-1])),
        }
        timed = compare(calls, min_seconds=config.seconds, min_count=config.count, warmup=1)
        tiles = len(restorer.plan(frame.height, frame.width))
    common: dict[str, Any] = {
        "height": frame.height,
        "width": frame.width,
        "threads": config.threads,
        "artifact": local.name,
        "tiles": tiles,
    }
    bare = latency_measurements(timed["tensor"], **common)
    whole = replace(latency_measurements(timed["frame"], **common)[0], name="frame_latency_p50")
    evidence = Evidence.TARGET if ctx.target.is_host else Evidence.HOST
    return [replace(row, evidence=evidence) for row in [*bare, whole]]


def _network_calls(restorer: Restorer, image: Image) -> Callable[[], object]:
    """The network alone on every tile of the image, their pixels prepared beforehand."""
    from eval.quality import to_batch
    from eval.tiling import mirrored

    plan = restorer.plan(*image.shape[:2])
    batches = []
    for tile in (t for row in plan.rows for t in row):
        rows, columns = mirrored(tile.y, plan.tile_height, plan.height), mirrored(tile.x, plan.tile_width, plan.width)
        batches.append(to_batch(image[rows[:, None], columns]))
    return lambda: [restorer.network(batch) for batch in batches]


def _frame(image: Image, height: int, width: int) -> Image:
    """An image of the target's frame size: the given one, mirrored as often as needed."""
    from eval.tiling import mirrored

    out: Image = image[mirrored(0, height, image.shape[0])[:, None], mirrored(0, width, image.shape[1])]
    return out


def _device_script(bundle: Bundle, local: BundleArtifact, ctx: StageContext) -> str:
    """Run the bundle's own bench.py on this host's artifact; it must verify."""
    result = ctx.workdir / "result.json"
    command = [sys.executable, str(bundle.path / "bench.py"), "--artifact", local.name, "--output", str(result), "--force-board"]
    timing = ["--threads", str(ctx.config.threads), "--seconds", "1", "--count", "10", "--warmup", "0.5"]
    done = subprocess.run([*command, *timing], check=False, capture_output=True, text=True)
    lines = (done.stdout + done.stderr).strip().splitlines() or ["no output"]
    if done.returncode not in (0, 3):  # 3: timed, but not steadily
        raise StageFailed("bench.py on this host", lines[-1], "the bundle is not what was compiled: run compile again with --force")
    said = "; ".join(lines).replace(f"{result}: ", "")  # the stage's folder does not outlast it
    return f"bundle/bench.py, the bundle's own script, on this host: {said}"


def _layers_json(made: Estimate, chosen: BundleArtifact) -> dict[str, Any]:
    layers = [{"name": t.name, "op": t.op, "ms": round(t.ms, 6), "bound": t.bound} for t in made.layers]
    return {
        "artifact": chosen.name,
        "evidence": "estimated",
        "ms": made.ms,
        "by_bound_ms": made.by_bound(),
        "by_kind_ms": made.by_kind(),
        "layers": layers,
    }


def _bound_note(made: Estimate, target: str) -> str:
    shares: Sequence[str] = [f"{bound} {ms:.2f} ms" for bound, ms in sorted(made.by_bound().items(), key=lambda item: -item[1])]
    return f"estimated for {target}: {made.ms:.2f} ms in {len(made.layers)} layers, by what bounds them: {', '.join(shares)}"


STAGE = StageSpec(
    run=run,
    config=BenchmarkConfig,
    consumes={"bundle": Kind.BUNDLE},
    produces={"samples": Kind.SAMPLES, "estimate": Kind.REPORT},
    data=("test",),
    reads_target=("name", "cpu", "frame", "rates", "jitter_p90", "is_host"),
    toolchain=("onnx", "onnxslim", "onnxruntime", "apache-tvm", "openvino", "ai-edge-litert", "numpy"),
    code=("compile", "targets"),  # backends are opened by the import path in an artifact's facts
    measures="host",
)
