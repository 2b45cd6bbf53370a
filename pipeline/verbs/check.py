"""``check``: what can go wrong in a run, looked for in seconds, before any training."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import PipelineError, StageFailed, ToolchainMissing, UsageError
from pipeline.opening import BackendOpt, PipelineArg, SetOpt, TargetOpt, WorkspaceOpt, narrowed_plan

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.preflight import DataSet, Finding

_HELP = """Look in seconds, before any training, for what would stop a run or go badly on its target.

Configuration, data (found, apart from each other, large enough), toolchains of stages and backends, and the student: can it be exported,
do its activations, blocks, widths and up-sampling pay on the target, what latency is to be expected.

Exit code: 0, with or without warnings; 2 where the configuration or the data is wrong; 6 where a toolchain is missing.

Example: python -m pipeline check pipeline.yaml --target jetson-xavier
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("check", help=_HELP)(check)


def check(
    pipeline: PipelineArg,
    target: TargetOpt,
    overrides: SetOpt = [],  # noqa: B006 - typer wants a literal
    backends: BackendOpt = [],  # noqa: B006
    workspace: WorkspaceOpt = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Look for what would stop a run or go badly on its target."""
    begin = time.monotonic()
    plan = narrowed_plan(pipeline, target, overrides, backends, workspace)
    data, findings, expected = examine(plan)
    if as_json:
        print(json.dumps(to_json(plan, data, findings, expected), indent=1))
    else:
        _show(plan, data, findings, expected, time.monotonic() - begin)
    _raise(plan, findings)


def examine(plan: Plan) -> tuple[list[DataSet], list[Finding], list[Any]]:
    """Data sets, findings (what stops a run first) and estimates (``search.forecast.Forecast``)."""
    from pipeline import preflight

    sets = list(preflight.data_sets(plan))
    data = [s for s in sets if not isinstance(s, preflight.Finding)]
    findings = [s for s in sets if isinstance(s, preflight.Finding)]
    findings += [*preflight.metrics(plan), *preflight.shared_scenes(plan), *preflight.toolchains(plan)]
    expected: list[Any] = []
    if not any(f.level == "missing" for f in findings):  # the student is built with what may be missing
        findings += preflight.stages(plan)
        if not any(f.error for f in findings):
            try:
                expected, over = preflight.forecast(plan)
                findings += over
            except (UsageError, StageFailed) as e:
                findings.append(preflight.Finding(e.where, e.what, e))
    return data, sorted(findings, key=lambda f: f.error is None), expected


def to_json(plan: Plan, data: Sequence[DataSet], findings: Sequence[Finding], expected: Sequence[Any]) -> dict[str, Any]:
    """The result as a program reads it; sizes are (width, height) in pixels, measurements as in report.json."""
    from pipeline.serial import measurement_to_json

    return {
        "pipeline": plan.path.name,
        "target": plan.target.name,
        "stages": [s.id for s in plan.stages],
        "data": [{"role": d.role, "pairs": d.pairs, "scenes": d.scenes, "size": list(d.size)} for d in data],
        "forecasts": [
            {
                "what": f.what,
                "backend": f.backend,
                "precision": f.precision,
                "budget_ms": f.budget_ms,
                "measurements": [measurement_to_json(m) for m in f.measurements],
            }
            for f in expected
        ],
        "findings": [{"level": f.level, "where": f.where, "what": f.what, "hint": f.error.hint if f.error else None} for f in findings],
        "errors": sum(f.error is not None for f in findings),
        "warnings": sum(f.error is None for f in findings),
    }


def _show(plan: Plan, data: Sequence[DataSet], findings: Sequence[Finding], expected: Sequence[Any], seconds: float) -> None:
    names = " → ".join(s.id for s in plan.stages)
    print(f"{plan.path.name} for {plan.target.name} ({plan.target.title}): {names}")
    for d in data:
        print(f"data.{d.role}: {_many(d.pairs, 'pair')} of {_many(d.scenes, 'scene')}, the first {d.size[0]}x{d.size[1]} pixels")
    for f in expected:
        how = f"{f.precision} in {f.backend}"
        print(f"{f.what}: {f.p90_ms:.1f} ms (p90, estimated from constants of the target, {how}) of {f.budget_ms:g}")
    for finding in findings:
        print(f"{finding.level}: {finding.where}: {finding.what}")
        if finding.error:
            print(f"  hint: {finding.error.hint}")
    errors, warnings = sum(f.error is not None for f in findings), sum(f.error is None for f in findings)
    print(f"{_many(errors, 'error')}, {_many(warnings, 'warning')}, {seconds:.1f} s")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _raise(plan: Plan, findings: Sequence[Finding]) -> None:
    """End with the exit code of the worst finding: a wrong configuration before a missing toolchain."""
    stopping = [f.error for f in findings if f.error is not None]
    if not stopping:
        return
    missing = all(isinstance(e, ToolchainMissing) for e in stopping)
    kind: type[PipelineError] = ToolchainMissing if missing else UsageError
    first = next(e for e in stopping if missing or not isinstance(e, ToolchainMissing))
    more = f" (the first of {len(stopping)})" if len(stopping) > 1 else ""
    raise kind(first.where, f"{first.what}{more}", first.hint)
