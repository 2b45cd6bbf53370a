"""What the stage hands on: the checkpoint of the good rung or the input unchanged, what was measured, and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import nn

from eval.cost import cost_measurements
from eval.latency import speedup
from models import checkpoint
from models.arch import size_multiple
from pipeline.contract import Better, Candidate, Evidence, Kind, Measurement, Output, StageContext, StageResult
from prune.ladder import Climb, Rung
from prune.payoff import BACKEND, speed_measurements, tile_side
from prune.quality import measure
from prune.shrink import table, widths

UNCHANGED = "unchanged"


def prune(ctx: StageContext) -> StageResult:
    """Run the stage.

    Raises:
        UsageError: a network that cannot be pruned, or training settings that do not fit it.
        StageFailed: the recovery diverged.
        ToolchainMissing: ONNX Runtime is not installed.
    """
    climb = Climb(ctx)
    tried = climb.rungs()
    chosen = tried[-1] if tried[-1].good else None
    before, network = climb.source.module, chosen.network if chosen else climb.source.module
    path = _write_checkpoint(ctx, climb, chosen)
    header = checkpoint.read_header(path)
    facts = {"arch": header.arch, "config": header.config, "size_multiple": size_multiple(network), "widths": widths(network)}
    report = ctx.workdir / "widths.json"
    rows = {name: {"before": width, "after": widths(network)[name]} for name, width in widths(before).items()}
    report.write_text(json.dumps(rows, indent=1) + "\n")
    samples = ctx.workdir / "samples"
    return StageResult(
        {
            "model": Output(Kind.CHECKPOINT, path, facts),
            "samples": Output(Kind.SAMPLES, samples),
            "widths": Output(Kind.REPORT, report),
        },
        [
            *measure(network, ctx.data["test"], samples),
            *cost_measurements(network, path),
            *_speed(tried[-1], chosen, tile_side(network, ctx.config.tile)),
        ],
        candidates=_candidates(tried, chosen),
        notes=_notes(ctx, before, network, tried, chosen),
        retreated=len(tried) > 1 or chosen is None,
    )


def _write_checkpoint(ctx: StageContext, climb: Climb, chosen: Rung | None) -> Path:
    path = ctx.workdir / "model.safetensors"
    if chosen is None:
        shutil.copyfile(ctx.inputs["model"].path, path)
        return path
    config = ctx.config
    settings = {"global_ranking": config.global_ranking, "rounds": config.rounds, "steps": config.recover.train.steps}
    entry = {"stage": "prune", "ratio": round(chosen.ratio, 6), **settings, "seed": ctx.seed}
    checkpoint.save(path, chosen.network, climb.source.arch, history=[*climb.source.history, entry])
    return path


def _speed(last: Rung, chosen: Rung | None, side: int) -> list[Measurement]:
    return speed_measurements(last.before, chosen.after if chosen else last.before, side)


def _candidates(tried: list[Rung], chosen: Rung | None) -> list[Candidate]:
    rows = [Candidate(r.name, r is chosen, r.reason, BACKEND, "fp32", (_speedup(r),)) for r in tried]
    if chosen is None:
        rows.append(Candidate(UNCHANGED, True, "no ratio paid: the input is handed on as it is", BACKEND, "fp32"))
    return rows


def _speedup(rung: Rung) -> Measurement:
    return Measurement("speedup", speedup(rung.before, rung.after), "x", Better.HIGHER, len(rung.after.ms), Evidence.HOST)


def _notes(ctx: StageContext, before: nn.Module, after: nn.Module, tried: list[Rung], chosen: Rung | None) -> list[str]:
    notes = [f"{rung.name}: {rung.reason}" for rung in tried]
    if chosen is None:
        notes.append("retreated: no ratio paid, so the network is handed on unpruned")
    elif len(tried) > 1:
        notes.append(f"retreated from ratio {ctx.config.ratio:.2f} to {chosen.ratio:.2f}")
    if chosen is not None:
        notes.append(table(widths(before), widths(after)))
    return notes
