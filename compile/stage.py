"""The compile stage: every backend, precision and number of threads for the target, judged; the fastest that passes is bundled."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from compile.bundle import Packed, has_runner, linked, write_bundle
from compile.candidates import BUILD_LOG, Attempt, build_all, host_plans, plans_for
from compile.card import model_card
from compile.child import Runtimes
from compile.judge import Judge, Judged, choose
from compile.limits import Limits
from compile.pictures import First
from compile.preflight import refuse_unknown
from compile.reasons import Outcome, build_notes, notes, why_none
from eval.bundle import BundleFacts
from eval.seams import seam_note
from eval.session import load_backend
from pipeline.contract import Candidate, Evidence, Kind, Measurement, Output, StageContext, StageResult, StageSpec, Verdict
from pipeline.errors import StageFailed, ToolchainMissing, UsageError
from pipeline.target import Target
from quantize.artifact import ModelFolder

TOOLCHAIN = ("onnx", "onnxruntime", "onnxslim", "apache-tvm", "apache-tvm-ffi", "ziglang", "openvino", "ai-edge-litert")


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


Threads = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_listed, json_schema_input_type=int | list[int])]


class CompileConfig(BaseModel):
    """What may be set under ``with:``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile: int = Field(default=256, ge=16, description="side in pixels of the tiles that CPU artifacts of fixed size take")
    backends: tuple[str, ...] = Field(default=(), description="of the target's backends, those to try; all when left out")
    threads: Threads = Field(default=(), description="CPU threads to try: a number or a list; 1 and all the target's cores when left out")
    seconds: float = Field(default=1.0, gt=0, description="least measuring time of each artifact in seconds")
    images: int = Field(default=8, ge=0, description="images of the calibrate split that quality is judged by, 0 = all")
    max_drop: float = Field(default=0.3, ge=0, description="largest loss in dB against the float network, on the mean of the images")
    max_drop_worst: float = Field(default=0.3, ge=0, description="largest loss in dB against the float network on any single image")
    max_size: float | None = Field(default=None, gt=0, description="largest artifact in MB (10**6 bytes)")


def run(ctx: StageContext) -> StageResult:
    """Build, judge, choose, pack."""
    config: CompileConfig = ctx.config
    target = cast("Target", ctx.target)
    model = ctx.inputs["model"]
    folder = ModelFolder(model.path)
    if config.tile % folder.size_multiple:
        hint = f"give a multiple of {folder.size_multiple}"
        raise UsageError("stages.compile.with.tile", f"{config.tile} is no multiple of the network's {folder.size_multiple}", hint)
    _check_backends(target, config)
    attempts = _build(ctx, target, config)
    _require_any(attempts)
    source = First(ctx.data["calibrate"], config.images)
    with Runtimes(ctx.workdir / "runtimes") as runtimes:
        judge = Judge(folder, source, target, config.tile, config.seconds, runtimes, ctx.data["test"])
        ctx.progress.log(f"judging {sum(a.built is not None for a in attempts)} of {len(attempts)} candidates on {len(source)} images")
        judged = judge.judge(attempts)
        limits = Limits(judge.float_quality(), config.max_drop, config.max_drop_worst, config.max_size)
        seams = judge.seams()
    for_target = [j for j in judged if not j.attempt.plan.beside]
    chosen, host = choose(for_target, limits), _fastest_here(judged, limits)
    if chosen is None or host is None:
        raise StageFailed("compile", f"no candidate passes: {why_none(attempts, judged, limits)}", "see the candidates in the log")
    outcome = Outcome(chosen, host, limits, "measured" if target.is_host else "estimated")
    packed = _packed(judge, judged, outcome, _without_python(for_target, outcome))
    facts = _bundle_facts(ctx, target, folder, outcome, linked(packed))
    content = write_bundle(ctx.workdir / "bundle", packed, facts, source[0].lq, config.tile)
    candidates = _candidates(attempts, judged, outcome)
    for c in candidates:
        ctx.progress.log(f"{'*' if c.chosen else ' '} {c.name}: {c.reason}")
    # quality on the calibration set stays with the candidates: beside the other stages' test figures it would mislead
    measurements = [m for m in chosen.measurements if not m.name.startswith(("psnr", "ssim"))]
    remarks = [*notes(for_target, chosen), *build_notes(attempts), seam_note(seams, judge.receptive)]
    return StageResult(_outputs(ctx, content, chosen), [*measurements, *seams], candidates, remarks)


def _check_backends(target: Target, config: CompileConfig) -> None:
    """Refuse backends that the target does not name, and those asked for by name whose runtime is missing."""
    refuse_unknown(target, config.backends)
    for name in config.backends:
        install = load_backend(name).missing()
        if install:
            raise ToolchainMissing(name, "this backend was asked for, and its packages are not installed", install)


def _require_any(attempts: Sequence[Attempt]) -> None:
    """Refuse when nothing could be built for the target for want of packages."""
    asked = [a for a in attempts if not a.plan.beside]
    lines = list(dict.fromkeys(a.install for a in asked if a.install))
    if lines and not any(a.built for a in asked):
        names = ", ".join(dict.fromkeys(a.plan.use for a in asked if a.install))
        raise ToolchainMissing("compile", f"no candidate can be built: the packages of {names} are not installed", "; ".join(lines))


def _build(ctx: StageContext, target: Target, config: CompileConfig) -> list[Attempt]:
    """Build everything; attempts in the order of the plans, then of the host's choices, whichever was done first."""
    plans = plans_for(target, config.backends, config.threads)
    attempts: list[Attempt] = []
    total = len(plans) + len(host_plans())
    for attempt in build_all(plans, ctx.inputs["model"].path, target, ctx.workdir / "candidates", config.tile):
        attempts.append(attempt)
        ctx.progress.update("build", len(attempts), total)
        if attempt.built is None:
            for line in (f"{attempt.plan.name}: {attempt.reason}", *_said(ctx.workdir / "candidates" / attempt.plan.artifact / BUILD_LOG)):
                ctx.progress.log(line)
    order = [*(p.name for p in plans), *(p.name for p in host_plans())]
    return sorted(attempts, key=lambda a: order.index(a.plan.name))


def _said(log: Path) -> list[str]:
    """The end of what a failed build printed; the log itself goes with the stage's working folder."""
    return [f"  {line}" for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]] if log.exists() else []


def _fastest_here(judged: Sequence[Judged], limits: Limits) -> Judged | None:
    """The choice by measured time for each pixel: what has a fixed size is timed at that."""

    def measured(j: Judged) -> float:
        found = (m for m in j.measurements if m.name == "latency_p50" and m.evidence is Evidence.HOST)
        return next((m.value / math.prod(map(int, m.conditions["frame"].split("x"))) for m in found), math.nan)

    good = [j for j in judged if j.parity.verdict is Verdict.PASSED and not limits.fault(j.quality, j.mb) and measured(j) > 0]
    return min(good, key=measured, default=None)


def _without_python(judged: Sequence[Judged], outcome: Outcome) -> Judged | None:
    """Where the chosen artifact runs from Python alone, and the device may have none: the fastest that passes and brings its own runner."""
    plan = outcome.chosen.attempt.plan
    if plan.runs_on != "cpu" or has_runner(outcome.chosen.attempt):
        return None
    return choose([j for j in judged if j.parity.verdict is Verdict.PASSED and has_runner(j.attempt)], outcome.limits)


def _packed(judge: Judge, judged: Sequence[Judged], outcome: Outcome, beside: Judged | None) -> list[Packed]:
    """Pack the chosen artifact, the one ``beside`` it, the host's, and what only the device can prove: each once, whatever its threads."""
    found: dict[str, Packed] = {}
    rank = {id(outcome.chosen): 0, id(beside): 1, id(outcome.host): 2}
    for j in sorted(judged, key=lambda j: (rank.get(id(j), 3), j.time_ms)):
        if (id(j) in rank or j.parity.verdict is Verdict.UNPROVEN) and j.attempt.plan.artifact not in found:
            role = "target" if j in (outcome.chosen, beside) else "host" if j is outcome.host else "unproven"
            single = replace(j.attempt, plan=replace(j.attempt.plan, threads=1))  # its name is the artifact's
            found[j.attempt.plan.artifact] = Packed(
                single, judge.reference(j.attempt), judge.opening(j.attempt), role, judge.overlap(j.attempt)
            )
    order = [j.attempt.plan.artifact for j in judged]
    return sorted(found.values(), key=lambda p: order.index(p.attempt.plan.artifact))


def _bundle_facts(ctx: StageContext, target: Target, folder: ModelFolder, outcome: Outcome, linked_in: Mapping[str, str]) -> dict[str, Any]:
    network = {"input": folder.facts.input, "output": folder.facts.output, "size_multiple": folder.size_multiple}
    card = model_card(folder, ctx.data, outcome.chosen.measurements, TOOLCHAIN)
    lineage = {**card["lineage"], "model_sha256": ctx.inputs["model"].sha256, "seed": ctx.seed, "versions": _versions()}
    return {
        **card,
        "licences": {**card["licences"], **linked_in},
        "target": target.name,
        "title": target.title,
        "network": network,
        "frame": {"width": target.frame.width, "height": target.frame.height},
        "latency_budget_ms": target.latency_budget_ms,
        "chosen": outcome.chosen.attempt.plan.artifact,
        "host": outcome.host.attempt.plan.artifact,
        "recognise": target.recognise.model_dump(mode="json"),
        "lineage": lineage,
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


def _candidates(attempts: Sequence[Attempt], judged: Sequence[Judged], outcome: Outcome) -> list[Candidate]:
    by_name = {j.attempt.plan.name: j for j in judged}
    out = []
    for a in attempts:
        j = by_name.get(a.plan.name)
        reason = a.reason if j is None else outcome.reason(j)
        rows = () if j is None else _rows(j, outcome.limits)
        out.append(Candidate(a.plan.name, j is outcome.chosen, reason, a.plan.use, a.plan.precision, rows))
    return out


def _rows(j: Judged, limits: Limits) -> tuple[Measurement, ...]:
    ran = any(m.name == "psnr" for m in j.measurements)
    return (*j.measurements, limits.measurement(j.quality)) if ran else j.measurements


STAGE = StageSpec(
    run=run,
    config=CompileConfig,
    consumes={"model": Kind.ONNX},
    produces={"bundle": Kind.BUNDLE, "engine": Kind.ENGINE},
    data=("calibrate", "test"),
    reads_target=("name", "title", "cpu", "gpu", "rates", "backends", "frame", "latency_budget_ms", "is_host", "recognise"),
    toolchain=(*TOOLCHAIN, "flatbuffers", "numpy", "tensorrt"),
    code=("compile", "targets.device"),
    measures="host",
)
