"""The stage: candidates, choice, retreat, and what is handed on."""

from __future__ import annotations

import dataclasses

from eval.cost import cost_measurements, size_measurement
from eval.latency import LatencyResult, speedup
from eval.payoff import BACKEND, ModelFile, quality, speed_measurements, tile_side, time_files
from eval.quality import QualityResult
from pipeline.contract import Candidate, Kind, Measurement, Output, Pair, StageContext, StageResult
from quantize import words
from quantize.artifact import ModelFolder
from quantize.candidates import compete
from quantize.contest import Contest
from quantize.exchange import exchange_table
from quantize.folder import write_folder
from quantize.judged import Judged, split_measurements
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
    found = compete(contest)
    chosen = contest.choose(found)
    folder = _write(ctx, contest, chosen)
    by_measurement = ctx.target.is_host and ctx.config.mixed and not contest.fits(chosen)
    table = exchange_table(contest, chosen, folder.qdq("s8"), by_measurement)
    rungs = within_bound(contest, chosen, table)
    handed_on = rungs[-1]
    if handed_on is not chosen:
        folder = _write(ctx, contest, handed_on)
    times = _time(folder, ctx)
    notes = [contest.parts.note, *words.choice(contest, found, chosen), *words.retreats(contest, rungs, table), words.exchange(table)]
    if handed_on.int8:
        gain = speedup(times["fp32"], times["int8"])
        notes.append(words.speed(ctx, gain))
        if ctx.target.is_host and not gain >= ctx.config.min_speedup:
            handed_on = contest.float
            folder, times = _write(ctx, contest, handed_on), {"fp32": times["fp32"]}
    judged = [contest.float, *found, *(r for r in rungs if r is not contest.float and r not in found)]
    file, samples = _file(folder, "int8" if handed_on.int8 else "fp32"), ctx.workdir / "samples"
    test = ctx.data["test"]
    measured = quality(file, folder.size_multiple, test, samples)
    shown = [test[i] for i in range(min(ctx.config.shown, len(test)))]
    candidates = [_candidate(c, contest, handed_on, shown) for c in judged]
    notes.append(words.test(candidates, handed_on, measured))
    outputs = {
        "model": Output(Kind.ONNX, folder.path, folder.facts.model_dump(mode="json", by_alias=True)),
        "samples": Output(Kind.SAMPLES, samples),
        "exchange": Output(Kind.REPORT, table.write(ctx.workdir / "exchange.json", handed_on.float_tensors)),
    }
    measurements = _measurements(contest, folder, file, measured, times)
    return StageResult(outputs, measurements, candidates, notes, retreated=handed_on is not rungs[0])


def _write(ctx: StageContext, contest: Contest, handed_on: Judged) -> ModelFolder:
    quantized = handed_on.network if handed_on.int8 else None
    history = [*contest.source.history, {"stage": "quantize", "batchnorm": "folded"}]
    return write_folder(ctx.workdir / "model", contest.folded, contest.source.arch, ctx.target.opset, quantized, history)


def _file(folder: ModelFolder, precision: str) -> ModelFile:
    return ModelFile(folder.qdq("u8") if precision == "int8" else folder.float, precision)


def _time(folder: ModelFolder, ctx: StageContext) -> Times:
    files = {precision: _file(folder, precision) for precision in folder.facts.precisions}
    return time_files(files, tile_side(folder.size_multiple, ctx.config.tile), ctx.config.seconds)


def _measurements(contest: Contest, folder: ModelFolder, file: ModelFile, measured: QualityResult, times: Times) -> list[Measurement]:
    size = dataclasses.replace(size_measurement(file.path), conditions={"file": file.path.name})
    side = tile_side(folder.size_multiple, contest.config.tile)
    return [
        *measured.measurements(backend=BACKEND, precision=file.precision),
        *cost_measurements(contest.folded),
        size,
        *speed_measurements(times["fp32"], times[file.precision], side, file.precision, "fp32"),
    ]


def _candidate(candidate: Judged, contest: Contest, handed_on: Judged, shown: list[Pair]) -> Candidate:
    precision = "int8" if candidate.int8 else "fp32"
    measurements = split_measurements(candidate, shown, contest.float)
    return Candidate(candidate.name, candidate is handed_on, words.reason(candidate, contest), BACKEND, precision, measurements)
