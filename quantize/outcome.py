"""The stage: candidates, choice, retreat, and what is handed on."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from eval.cost import cost_measurements, size_measurement
from eval.latency import LatencyResult, speedup
from eval.quality import QualityResult
from pipeline.contract import Candidate, Kind, Measurement, Output, Pair, StageContext, StageResult
from quantize.artifact import ModelFolder
from quantize.candidates import CONTROL, FLOAT, Contest, Judged, split_measurements
from quantize.folder import write_folder
from quantize.payoff import BACKEND, file_of, quality, speed_measurements, tile_side, time_precisions
from quantize.retreat import within_bound

Times = dict[str, LatencyResult]


def quantize(ctx: StageContext) -> StageResult:
    """Run the stage.

    Raises:
        UsageError: the input is no checkpoint, or training settings do not fit it.
        StageFailed: the network cannot be quantized, training diverged, or a written file breaks its rules.
        ToolchainMissing: ONNX Runtime is not installed.
    """
    contest = Contest(ctx)
    found = contest.candidates()
    rungs = within_bound(contest, contest.choose(found))
    handed_on = rungs[-1]
    folder = _write(ctx, contest, handed_on)
    times = time_precisions(folder, ctx.config.tile, ctx.config.seconds)
    notes = _quality_notes(contest, found, rungs)
    if handed_on.int8:
        gain = speedup(times["fp32"], times["int8"])
        notes.append(_speed_note(ctx, gain))
        if ctx.target.is_host and not gain >= ctx.config.min_speedup:
            handed_on = contest.float
            folder, times = _write(ctx, contest, handed_on), {"fp32": times["fp32"]}
    judged = [contest.float, *found, *(r for r in rungs if r is not contest.float and r not in found)]
    test, samples = ctx.data["test"], ctx.workdir / "samples"
    precision = "int8" if handed_on.int8 else "fp32"
    measured = quality(folder, precision, test, samples)
    shown = [test[i] for i in range(min(ctx.config.shown, len(test)))]
    candidates = [_candidate(c, contest, handed_on, shown) for c in judged]
    notes.append(_test_note(candidates, handed_on, measured))
    outputs = {
        "model": Output(Kind.ONNX, folder.path, folder.facts.model_dump(mode="json", by_alias=True)),
        "samples": Output(Kind.SAMPLES, samples),
    }
    measurements = _measurements(contest, folder, precision, measured, times)
    return StageResult(outputs, measurements, candidates, notes, retreated=handed_on is not rungs[0])


def _write(ctx: StageContext, contest: Contest, handed_on: Judged) -> ModelFolder:
    quantized = handed_on.network if handed_on.int8 else None
    history = [*contest.source.history, {"stage": "quantize", "batchnorm": "folded"}]
    return write_folder(ctx.workdir / "model", contest.folded, contest.source.arch, ctx.target.opset, quantized, history)


def _measurements(contest: Contest, folder: ModelFolder, precision: str, measured: QualityResult, times: Times) -> list[Measurement]:
    file = file_of(folder, precision)
    size = dataclasses.replace(size_measurement(file), conditions={"file": file.name})
    return [
        *measured.measurements(backend=BACKEND, precision=precision),
        *cost_measurements(contest.folded),
        size,
        *speed_measurements(times, precision, tile_side(folder, contest.config.tile)),
    ]


def _candidate(candidate: Judged, contest: Contest, handed_on: Judged, shown: list[Pair]) -> Candidate:
    precision = "int8" if candidate.int8 else "fp32"
    measurements = split_measurements(candidate, shown)
    return Candidate(candidate.name, candidate is handed_on, _reason(candidate, contest), BACKEND, precision, measurements)


def _reason(candidate: Judged, contest: Contest) -> str:
    if candidate is contest.float:
        return "the input in float, which the others are held against"
    if candidate.name == CONTROL:
        return f"{_delta(candidate, contest)}: what the training gives without int8; never handed on"
    tensors = f"; in float: {', '.join(candidate.float_tensors)}" if candidate.float_tensors else ""
    return f"{_delta(candidate, contest)} against float{tensors}"


def _delta(candidate: Judged, contest: Contest) -> str:
    return f"{candidate.mean - contest.float.mean:+.3f} dB on the calibration set"


def _quality_notes(contest: Contest, found: list[Judged], rungs: list[Judged]) -> list[str]:
    rivals = ", ".join(f"{c.name} {c.mean - contest.float.mean:+.3f}" for c in found if c is not rungs[0] and c.int8)
    notes = [f"{rungs[0].name} is the best int8: {_delta(rungs[0], contest)} against float ({rivals})"]
    bound = f"more than the {contest.config.max_drop:g} dB allowed"
    for above, below in itertools.pairwise(rungs):
        lost = f"{above.name} loses {contest.float.mean - above.mean:.3f} dB on the calibration set, {bound}"
        what = (
            f"{len(below.float_tensors)} tensors return to float: {', '.join(below.float_tensors)}"
            if below.int8
            else "all returns to float"
        )
        notes.append(f"retreated: {lost}: {what}")
    return notes


def _speed_note(ctx: StageContext, gain: float) -> str:
    text = f"int8 is {gain:.2f}x as fast as fp32 in ONNX Runtime on this host, 1 thread"
    if gain >= ctx.config.min_speedup:
        return text
    if ctx.target.is_host:
        return f"retreated: {text}, at least {ctx.config.min_speedup:g}x is asked for: all returns to float"
    return f"{text}; the target is another device, where compile judges it"


def _test_note(candidates: list[Candidate], handed_on: Judged, measured: QualityResult) -> str:
    test = {c.name: c.measurements[1].value for c in candidates}
    others = ", ".join(f"{name} {value - test[FLOAT]:+.3f} dB" for name, value in test.items() if name not in (FLOAT, handed_on.name))
    mean = float(np.mean(measured.psnr))
    count = candidates[0].measurements[1].samples
    first = f"on the test set {handed_on.name} as ONNX Runtime computes it has {mean:.3f} dB"
    return f"{first}; over the first {count} images float has {test[FLOAT]:.3f} dB, and beside it {others}"
