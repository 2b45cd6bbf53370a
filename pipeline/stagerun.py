"""One stage's own part of a run: what it is shown, and what becomes of its exceptions."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.contract import Artifact, Progress, StageContext, StageResult
from pipeline.errors import PipelineError, StageFailed
from pipeline.plan import Plan, PlannedStage
from pipeline.target import TargetView


def context_of(
    plan: Plan, stage: PlannedStage, inputs: Mapping[str, Artifact], workdir: Path, progress: Progress, shared: Path | None = None
) -> StageContext:
    """What ``stage`` may see: its inputs, the data roles and the target's fields that it declares."""
    data = {role: plan.data[role] for role in stage.spec.data}
    view = TargetView(plan.target, stage.spec.reads_target)
    return StageContext(stage.config, inputs, workdir, view, data, plan.seed, progress, shared)


def guarded(stage: PlannedStage, context: StageContext, log: Path) -> StageResult:
    """Run a stage.

    Raises:
        StageFailed: whatever it raised that is no PipelineError; names ``log``, where the traceback then lies.
    """
    try:
        return stage.spec.run(context)
    except PipelineError:
        raise
    except Exception as e:
        with log.open("a", encoding="utf-8") as f:
            f.write(traceback.format_exc())
        raise StageFailed(f"stage {stage.id}", f"{type(e).__name__}: {_first_line(e)}", f"the traceback is in {log}") from e


def require_outputs(stage: PlannedStage, result: StageResult) -> None:
    """Refuse a result that lacks an output.

    Raises:
        StageFailed: names the first one.
    """
    missing = sorted(stage.spec.produces.keys() - result.outputs.keys())
    if missing:
        raise StageFailed(f"stage {stage.id}", f"did not return its output '{missing[0]}'", f"look at {stage.uses}")


def write_restored_log(log: Path, stored: Mapping[str, Any]) -> None:
    """Begin the log of a stage that is restored: when its result was made, and what it said then."""
    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} restored: the result of {stored['measured_at']}"
    said = stored.get("log", "")  # results of earlier versions keep none
    log.write_text(f"{head}{', whose log was' if said else ''}\n{said}", encoding="utf-8")


def _first_line(e: BaseException) -> str:
    return (str(e).strip().splitlines() or ["no message"])[0]
