"""The compile stage: every backend and precision that the target names, judged; the fastest that passes goes into the bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from compile.bundle import Packed, write_bundle
from compile.candidates import HOST_CHOICES, Attempt, build_all
from compile.judge import First, Judge, Judged, choose
from eval.bundle import BundleFacts
from pipeline.contract import Candidate, Evidence, Kind, Output, StageContext, StageResult, StageSpec, Verdict
from pipeline.errors import StageFailed, UsageError
from pipeline.target import Target
from quantize.artifact import ModelFolder

TOOLCHAIN = ("onnx", "onnxruntime", "onnxslim", "apache-tvm", "apache-tvm-ffi", "ziglang", "openvino", "ai-edge-litert")


class CompileConfig(BaseModel):
    """What may be set under ``with:``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile: int = Field(default=256, ge=16, description="side in pixels of the tiles that CPU artifacts of fixed size take")
    threads: int = Field(default=1, ge=1, description="CPU threads for measurements on this machine")
    seconds: float = Field(default=1.0, gt=0, description="least measuring time of each artifact in seconds")
    images: int = Field(default=8, ge=0, description="images of the calibrate split used for parity and quality, 0 = all")
    max_drop: float = Field(default=0.3, ge=0, description="largest loss in dB against the float network that a candidate may show")


def run(ctx: StageContext) -> StageResult:
    """Build, judge, choose, pack."""
    config: CompileConfig = ctx.config
    target = cast("Target", ctx.target)
    model = ctx.inputs["model"]
    folder = ModelFolder(model.path)
    if config.tile % folder.size_multiple:
        hint = f"give a multiple of {folder.size_multiple}"
        raise UsageError("stages.compile.with.tile", f"{config.tile} is no multiple of the network's {folder.size_multiple}", hint)
    attempts = _build(ctx, target, config)
    source = First(ctx.data["calibrate"], config.images)
    judge = Judge(folder, source, target, config.tile, config.threads, config.seconds)
    ctx.progress.log(f"judging {sum(a.built is not None for a in attempts)} of {len(attempts)} candidates on {len(source)} images")
    judged = judge.judge(attempts)
    for_target = [j for j in judged if not j.attempt.plan.beside]
    floor = judge.float_quality().mean_psnr - config.max_drop
    chosen = choose(for_target, floor)
    host = _fastest_here(judged, floor)
    if chosen is None or host is None:
        raise StageFailed("compile", f"no candidate passes: {_why_none(attempts, judged, floor)}", "see the candidates in the log")
    packed = _packed(judge, judged, chosen, host)
    facts = _bundle_facts(ctx, target, folder, chosen, host)
    content = write_bundle(ctx.workdir / "bundle", packed, facts, source[0].lq, config.tile)
    candidates = _candidates(attempts, judged, chosen, host, floor, estimated=not target.is_host)
    for c in candidates:
        ctx.progress.log(f"{'*' if c.chosen else ' '} {c.name}: {c.reason}")
    # quality on the calibration set stays with the candidates: beside the other stages' test figures it would mislead
    measurements = [m for m in chosen.measurements if not m.name.startswith(("psnr", "ssim"))]
    return StageResult(_outputs(ctx, content, chosen), measurements, candidates, _notes(for_target, chosen))


def _build(ctx: StageContext, target: Target, config: CompileConfig) -> list[Attempt]:
    attempts: list[Attempt] = []
    total = sum(len(b.precisions) for b in target.backends) + len(HOST_CHOICES)
    for attempt in build_all(ctx.inputs["model"].path, target, ctx.workdir / "candidates", config.tile):
        attempts.append(attempt)
        ctx.progress.update("build", len(attempts), max(total, len(attempts)))
    return attempts


def _fastest_here(judged: Sequence[Judged], floor: float) -> Judged | None:
    def measured(j: Judged) -> float:
        return next((m.value for m in j.measurements if m.name == "latency_p50" and m.evidence is Evidence.HOST), float("nan"))

    good = [j for j in judged if j.parity.verdict is Verdict.PASSED and j.quality.mean_psnr >= floor and measured(j) > 0]
    return min(good, key=measured, default=None)


def _packed(judge: Judge, judged: Sequence[Judged], chosen: Judged, host: Judged) -> list[Packed]:
    """Pack the chosen artifact, the host's, and what only the device can prove."""
    out = []
    for j in judged:
        unproven = j.parity.verdict is Verdict.UNPROVEN
        if j is chosen or j is host or unproven:
            role = "target" if j is chosen else "host" if j is host else "unproven"
            out.append(Packed(j.attempt, judge.reference(j.attempt), judge.opening(j.attempt), role))
    return out


def _bundle_facts(ctx: StageContext, target: Target, folder: ModelFolder, chosen: Judged, host: Judged) -> dict[str, Any]:
    network = {"input": folder.facts.input, "output": folder.facts.output, "size_multiple": folder.size_multiple}
    return {
        "target": target.name,
        "title": target.title,
        "network": network,
        "frame": {"width": target.frame.width, "height": target.frame.height},
        "latency_budget_ms": target.latency_budget_ms,
        "chosen": chosen.attempt.plan.name,
        "host": host.attempt.plan.name,
        "lineage": {"model_sha256": ctx.inputs["model"].sha256, "arch": folder.facts.arch, "seed": ctx.seed, "versions": _versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in TOOLCHAIN:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _outputs(ctx: StageContext, content: BundleFacts, chosen: Judged) -> dict[str, Output]:
    built = chosen.attempt.built
    if built is None:
        raise ValueError("the chosen candidate was not built")
    bundle = {"target": content.target, "chosen": content.chosen, "host": content.host, "artifacts": [a.name for a in content.artifacts]}
    return {"bundle": Output(Kind.BUNDLE, ctx.workdir / "bundle", bundle), "engine": Output(Kind.ENGINE, built.path, dict(built.facts))}


def _candidates(
    attempts: Sequence[Attempt], judged: Sequence[Judged], chosen: Judged, host: Judged, floor: float, *, estimated: bool
) -> list[Candidate]:
    by_name = {j.attempt.plan.name: j for j in judged}
    out = []
    for a in attempts:
        j = by_name.get(a.plan.name)
        reason = a.reason if j is None else _reason(j, chosen, host, floor, "estimated" if estimated else "measured")
        rows = () if j is None else j.measurements
        out.append(Candidate(a.plan.name, j is chosen and j is not None, reason, a.plan.use, a.plan.precision, rows))
    return out


def _reason(j: Judged, chosen: Judged, host: Judged, floor: float, how: str) -> str:
    if j.parity.verdict is Verdict.FAILED:
        return f"parity failed: {j.parity.reason}"
    if not j.quality.mean_psnr >= floor:
        return f"loses too much: {j.quality.mean_psnr:.2f} dB, at least {floor:.2f} is asked for"
    if j is chosen:
        first = "the fastest that passes" if j.parity.verdict is Verdict.PASSED else "the fastest; none is proven"
        return f"{first}: {j.time_ms:.2f} ms {how}; {j.parity.reason}"
    here = "; the fastest on this machine, in the bundle to be run here" if j is host else ""
    if j.attempt.plan.beside:
        return f"for this machine only: {j.time_ms:.2f} ms measured; {j.parity.reason}{here}"
    return f"{j.time_ms:.2f} ms {how} against {chosen.time_ms:.2f}; {j.parity.reason}{here}"


def _notes(for_target: Sequence[Judged], chosen: Judged) -> list[str]:
    faster = [j for j in for_target if j.parity.verdict is Verdict.UNPROVEN and j is not chosen and j.time_ms < chosen.time_ms]
    return [f"{j.attempt.plan.name} may be faster ({j.time_ms:.2f} ms), but {j.parity.reason}" for j in faster]


def _why_none(attempts: Sequence[Attempt], judged: Sequence[Judged], floor: float) -> str:
    parts = [f"{a.plan.name}: {a.reason}" for a in attempts if a.built is None]
    parts += [f"{j.attempt.plan.name}: {j.parity.reason}, {j.quality.mean_psnr:.2f} dB of {floor:.2f}" for j in judged]
    return "; ".join(parts)


STAGE = StageSpec(
    run=run,
    config=CompileConfig,
    consumes={"model": Kind.ONNX},
    produces={"bundle": Kind.BUNDLE, "engine": Kind.ENGINE},
    data=("calibrate",),
    reads_target=("name", "title", "cpu", "gpu", "rates", "backends", "frame", "latency_budget_ms", "is_host"),
    toolchain=TOOLCHAIN,
    code=("compile", "targets.device"),
    measures="host",
)
