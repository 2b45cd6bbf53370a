"""``run``: the whole pipeline, or the part of it that is asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.contract import Evidence, Progress, Verdict
from pipeline.errors import GateFailed, GateUnproven, PipelineError, UsageError
from pipeline.opening import BackendOpt, PipelineArg, SetOpt, TargetOpt, WorkspaceOpt, narrowed_plan, workspace_of

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from pipeline.rundir import RunDir
    from pipeline.runner import RunOptions, RunResult


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run", help="Run a pipeline for a target.\n\nExample: python -m pipeline run pipeline.yaml --target jetson-xavier")(run)


def run(
    pipeline: PipelineArg,
    target: TargetOpt,
    from_: Annotated[str | None, typer.Option("--from", help="restore every stage before this one, or refuse", metavar="STAGE")] = None,
    until: Annotated[str | None, typer.Option("--until", help="stop after this stage", metavar="STAGE")] = None,
    force: Annotated[list[str], typer.Option("--force", help="run this stage although a result is stored", metavar="STAGE")] = [],  # noqa: B006 - typer wants a literal
    overrides: SetOpt = [],  # noqa: B006
    backends: BackendOpt = [],  # noqa: B006
    workspace: WorkspaceOpt = None,
    require_evidence: Annotated[
        str | None, typer.Option("--require-evidence", help="'target': gates on speed need numbers measured on the device")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="only the result")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print report.json instead of the summary")] = False,
) -> None:
    """Run a pipeline for a target."""
    from pipeline.ranks import Follower, Leader
    from pipeline.runner import Runner, RunOptions
    from pipeline.torchrun import crew

    with crew() as part:
        if require_evidence not in (None, "target"):
            raise UsageError(
                "--require-evidence", f"unknown evidence '{require_evidence}'", "the one kind that can be required is 'target'"
            )
        plan = narrowed_plan(pipeline, target, overrides, backends, workspace)
        if isinstance(part, Follower):
            part.follow(plan)
            return
        options = RunOptions(from_, until, tuple(force), Evidence.TARGET if require_evidence else None)
        options.check(plan)
        _in_order(options, [s.id for s in plan.stages])
        silent = quiet or as_json
        runner = Runner(plan, workspace_of(pipeline, workspace), _progress_factory(silent), _say if not silent else _drop, part)
        if isinstance(part, Leader):
            part.abandon = lambda error: _finish(runner.abandon(error), as_json)
        _say_head(plan, runner.run_dir, silent)
        _warn(plan, runner.workspace, silent)
        _finish(runner.run(options), as_json)


def _in_order(options: RunOptions, stages: list[str]) -> None:
    if options.from_ and options.until and stages.index(options.from_) > stages.index(options.until):
        raise UsageError(f"--from {options.from_}", f"comes after --until {options.until}", f"known, in order: {', '.join(stages)}")


def _progress_factory(quiet: bool) -> Callable[[str, int, int, Path, Callable[..., None]], Progress]:
    from pipeline.progress import StageProgress

    def make(stage: str, number: int, total: int, log: Path, event: Callable[..., None]) -> Progress:
        return StageProgress(f"[{number}/{total}] {stage}", log, event, quiet=quiet)

    return make


def _say_head(plan: Plan, run_dir: RunDir, quiet: bool) -> None:
    if not quiet:
        names = " → ".join(s.id for s in plan.stages)
        print(f"{plan.path.name} for {plan.target.name} ({plan.target.title}): {names}\nrun directory: {run_dir.path}", flush=True)


def _warn(plan: Plan, workspace: Path, quiet: bool) -> None:
    """Say, before a stage that has a preflight is run, what does not suit the target; where it is restored, it was said before."""
    from pipeline.preflight import warnings
    from pipeline.verbs.plan import plan_rows

    asks = {s.id for s in plan.stages if s.spec.preflight}
    if quiet or not any(row["id"] in asks and row["action"] == "run" for row in plan_rows(plan, workspace)):
        return
    for finding in warnings(plan):
        print(f"warning: {finding.where}: {finding.what}", flush=True)


def _finish(result: RunResult, as_json: bool) -> None:
    from pipeline.runner import exit_error

    if as_json:
        print(json.dumps(result.report, indent=1))
    else:
        from rich.console import Console

        from pipeline.report import print_summary

        print_summary(result.report, Console())
        print(f"report: {result.path / 'report.html'}")
    if result.error is not None:
        raise result.error
    unmet = exit_error(result.records)
    if unmet is not None:
        raise gate_error(*unmet)


def gate_error(stage: str, outcome: object) -> PipelineError:
    """The error of a gate that did not pass: what it asks, what it found, and the next step."""
    from pipeline.gates import Outcome

    if not isinstance(outcome, Outcome):
        raise TypeError(type(outcome))
    rule = f"{outcome.metric} {outcome.rule} {outcome.bound:g} {outcome.unit}".rstrip()
    rule += f" against {outcome.against}" if outcome.against else ""
    rule += "" if outcome.statistic == "mean" else f" ({outcome.statistic})"
    if outcome.verdict is Verdict.UNPROVEN:
        if outcome.reason.startswith("no measurement"):
            hint = "gate on what the stage measures: report.html lists it"
        else:
            hint = "bring the missing evidence: python -m pipeline bench RUN --on BOARD --ingest RUN; or do not require it"
        return GateUnproven(f"stage {stage}", f"gate '{rule}' is unproven: {outcome.reason}", hint)
    value = "NaN" if outcome.value is None or outcome.value != outcome.value else f"{outcome.value:.4g}"
    hint = "report.html shows by how much and on which images; change the stage's settings, or the bound if it asks too much"
    return GateFailed(f"stage {stage}", f"gate '{rule}' is not met, it is {value} {outcome.unit}".rstrip(), hint)


def _say(line: str) -> None:
    print(line, flush=True, file=sys.stdout)


def _drop(line: str) -> None:
    del line
