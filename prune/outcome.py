"""What the stage hands on: the checkpoint of the good rung or the input unchanged, what was measured, and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from torch import nn

from eval.cost import cost_measurements
from eval.latency import speedup
from eval.payoff import BACKEND, speed_measurements, tile_side
from models import checkpoint
from models.spec import size_multiple
from pipeline.contract import Better, Candidate, Evidence, Kind, Measurement, Output, StageContext, StageResult
from prune.goal import TABLE
from prune.ladder import Climb, Rung
from prune.quality import measure
from prune.sensitivity import summary
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
    report.write_text(json.dumps(_rows(climb, before, network), indent=1) + "\n")
    samples = ctx.workdir / "samples"
    return StageResult(
        {
            "model": Output(Kind.CHECKPOINT, path, facts),
            "samples": Output(Kind.SAMPLES, samples),
            "widths": Output(Kind.REPORT, report),
            "sensitivity": Output(Kind.REPORT, ctx.workdir / TABLE),
        },
        [
            *measure(network, ctx.data["test"], samples),
            *cost_measurements(network, path),
            *_speed(tried[-1], chosen, tile_side(size_multiple(network), ctx.config.tile)),
        ],
        candidates=_candidates(tried, chosen),
        notes=_notes(climb, network, tried, chosen),
        retreated=len(tried) > 1 or chosen is None,
    )


def _rows(climb: Climb, before: nn.Module, after: nn.Module) -> dict[str, dict[str, int | str | None]]:
    """Layer -> its widths, and the group with which it loses channels."""
    groups = {layer: group.name for group in climb.planner.groups for layer in group.layers}
    now = widths(after)
    return {name: {"before": width, "after": now[name], "group": groups.get(name)} for name, width in widths(before).items()}


def _write_checkpoint(ctx: StageContext, climb: Climb, chosen: Rung | None) -> Path:
    path = ctx.workdir / "model.safetensors"
    if chosen is None or not chosen.plan:
        shutil.copyfile(ctx.inputs["model"].path, path)
        return path
    config = ctx.config
    settings = {"importance": config.importance, "rounds": config.rounds, "steps": config.recover.train.steps}
    entry = {"stage": "prune", "goal": chosen.name, "by_sensitivity": config.by_sensitivity, **settings, "seed": ctx.seed}
    checkpoint.save(path, chosen.network, climb.source.arch, history=[*climb.source.history, entry])
    return path


def _speed(last: Rung, chosen: Rung | None, side: int) -> list[Measurement]:
    return speed_measurements(last.before, chosen.after if chosen else last.before, side, "fp32", "the stage's input")


def _candidates(tried: list[Rung], chosen: Rung | None) -> list[Candidate]:
    rows = [Candidate(r.name, r is chosen, r.reason, BACKEND, "fp32", _measured(r)) for r in tried]
    if chosen is None:
        rows.append(Candidate(UNCHANGED, True, "nothing paid: the input is handed on as it is", BACKEND, "fp32"))
    return rows


def _measured(rung: Rung) -> tuple[Measurement, ...]:
    fast = Measurement("speedup", speedup(rung.before, rung.after), "x", Better.HIGHER, len(rung.after.ms), Evidence.HOST)
    if rung.loss is None:
        return (fast,)
    rows = (("psnr_drop", rung.loss.mean, "dB"), ("psnr_drop_worst", rung.loss.worst, "dB"), ("ssim_drop", rung.loss.ssim, ""))
    on = {"split": "calibrate"}
    return (fast, *(Measurement(n, v, unit, Better.LOWER, rung.loss.images, Evidence.HOST, on) for n, v, unit in rows))


def _notes(climb: Climb, after: nn.Module, tried: list[Rung], chosen: Rung | None) -> list[str]:
    notes = [summary(climb.planner.table), *(f"{rung.name}: {rung.reason}" for rung in tried)]
    if chosen is None:
        notes.append("retreated: nothing paid, so the network is handed on unpruned")
    elif len(tried) > 1:
        notes.append(f"retreated from {tried[0].name} to {chosen.name}")
    if chosen is not None:
        notes.append(table(widths(climb.source.module), widths(after)))
    return notes
