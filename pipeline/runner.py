"""The runner: the only part of the spine with effects. Runs or restores each stage of a plan, judges its gates, writes the reports."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.contract import Artifact, Evidence, Measurement, Progress, Status, Verdict
from pipeline.errors import PipelineError, UsageError, did_you_mean
from pipeline.gates import Outcome, judge
from pipeline.key import code_parts, key_of, key_parts
from pipeline.machine import machine_facts
from pipeline.plan import Plan, PlannedStage
from pipeline.ranks import Solo
from pipeline.report import render_html, render_markdown
from pipeline.rundir import RunDir
from pipeline.serial import measurement_to_json, measurements_from_json, result_to_json
from pipeline.stagerun import context_of, guarded, require_outputs, write_restored_log
from pipeline.stageview import stage_line, stage_markdown, write_test_pairs
from pipeline.store import Store

REPORT_SCHEMA = 1

ProgressFactory = Callable[[str, int, int, Path, Callable[..., None]], Progress]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line may ask of a run.

    from_    stages before it must be restorable
    until    last stage to run
    force    stages that run even when a result is stored
    required evidence that gates on speed must have
    """

    from_: str | None = None
    until: str | None = None
    force: tuple[str, ...] = ()
    required: Evidence | None = None

    def check(self, plan: Plan) -> None:
        """Refuse names that are not stages of the plan."""
        known = [s.id for s in plan.stages]
        for flag, name in (("--from", self.from_), ("--until", self.until), *(("--force", f) for f in self.force)):
            if name is not None and name not in known:
                raise UsageError(flag, f"there is no stage '{name}'", did_you_mean(name, known))


@dataclass
class StageRecord:
    """What became of one stage."""

    stage: PlannedStage
    status: Status = Status.SKIPPED
    key: str = ""
    seconds: float = 0.0
    measured_at: str = ""
    outputs: dict[str, Artifact] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    candidates: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    gates: list[Outcome] = field(default_factory=list)
    error: PipelineError | None = None

    def verdict(self) -> Verdict:
        """Failed when the stage or a gate failed, unproven when a gate is, else passed."""
        if self.status is Status.FAILED or any(g.verdict is Verdict.FAILED for g in self.gates):
            return Verdict.FAILED
        return Verdict.UNPROVEN if any(g.verdict is Verdict.UNPROVEN for g in self.gates) else Verdict.PASSED

    def to_json(self) -> dict[str, Any]:
        """The stage's entry in report.json."""
        outputs = {
            name: {"kind": str(a.kind), "path": self.paths.get(name, ""), "sha256": a.sha256, "bytes": a.bytes, "facts": dict(a.facts)}
            for name, a in self.outputs.items()
        }
        return {
            "id": self.stage.id,
            "uses": self.stage.uses,
            "title": self.stage.title,
            "status": str(self.status),
            "key": self.key,
            "seconds": round(self.seconds, 3),
            "measured_at": self.measured_at,
            "outputs": outputs,
            "measurements": [measurement_to_json(m) for m in self.measurements],
            "gates": [g.to_json() for g in self.gates],
            "candidates": self.candidates,
            "notes": self.notes,
            "error": str(self.error) if self.error else None,
        }


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: its folder, its report and the stages behind it."""

    path: Path
    report: dict[str, Any]
    records: tuple[StageRecord, ...]

    @property
    def error(self) -> PipelineError | None:
        """The error that stopped the run, if one did."""
        return next((r.error for r in self.records if r.error), None)


class Runner:
    """Carries out a plan.

    Args:
        plan: what to run.
        workspace: where the store and the runs lie.
        progress: makes the progress display of a stage from its id, number, the number of stages, its log file and the sink of events.
        say: called with each line meant for the user.
        crew: the processes that share the run; this one alone by default.

    """

    def __init__(
        self, plan: Plan, workspace: Path, progress: ProgressFactory, say: Callable[[str], None], crew: Solo | None = None
    ) -> None:
        self.plan, self.workspace, self.progress, self.say, self.crew = plan, workspace, progress, say, crew or Solo()
        self.store = Store(workspace / "store", warn=self._warn)
        self.run_dir = RunDir(workspace, plan.target.name)
        self.records = {s.id: StageRecord(s) for s in plan.stages}
        self.started = time.time()
        self.open: tuple[int, StageRecord, Path, Progress] | None = None  # the stage that is running

    def run(self, options: RunOptions) -> RunResult:
        """Run every stage up to ``options.until``; a failed stage or gate skips what comes after. Reports are written in any case.

        Call ``options.check`` first.
        """
        self._write_head(options)
        ended = False
        try:
            for number, stage in enumerate(self.plan.stages, 1):
                if not self._advance(number, stage, options) or stage.id == options.until:
                    break
            ended = True
        finally:  # an interrupted run has proved nothing of what it did not come to
            report = self._write_report(Verdict.PASSED if ended else Verdict.UNPROVEN)
        return RunResult(self.run_dir.path, report, tuple(self.records.values()))

    def abandon(self, error: PipelineError) -> RunResult:
        """Write the reports of a run whose stage hangs, from another thread; the process is to end afterwards."""
        if self.open is not None:
            number, record, folder, progress = self.open
            progress.__exit__(None, None, None)
            record.status, record.error = Status.FAILED, error
            self._close(number, record, folder)
        return RunResult(self.run_dir.path, self._write_report(), tuple(self.records.values()))

    def _advance(self, number: int, stage: PlannedStage, options: RunOptions) -> bool:
        record, folder = self.records[stage.id], self.run_dir.stage(number, stage.id)
        self.run_dir.event("stage_started", stage=stage.id)
        try:
            self._restore_or_run(number, stage, record, folder, options)
        except PipelineError as e:
            record.status, record.error = Status.FAILED, e
        for name, artifact in record.outputs.items():
            record.paths[name] = self.run_dir.expose(folder, name, artifact)
        if record.error is None:
            others = {r.stage.id: r.measurements for r in self.records.values()}
            record.gates = [judge(g, record.measurements, others, self.plan.target, options.required) for g in stage.gates]
        self._close(number, record, folder)
        return record.verdict() is not Verdict.FAILED

    def _close(self, number: int, record: StageRecord, folder: Path) -> None:
        status, verdict = str(record.status), str(record.verdict())
        self.run_dir.event("stage_finished", stage=record.stage.id, status=status, verdict=verdict, key=record.key)
        entry = record.to_json()
        self.run_dir.write_json(f"{folder.relative_to(self.run_dir.path)}/report.json", entry)
        self.run_dir.write_text(f"{folder.relative_to(self.run_dir.path)}/report.md", stage_markdown(entry))
        self.say(stage_line(entry, number, len(self.plan.stages)))

    def _restore_or_run(self, number: int, stage: PlannedStage, record: StageRecord, folder: Path, options: RunOptions) -> None:
        inputs = {name: self.records[source].outputs[output] for name, (source, output) in stage.needs.items()}
        parts = key_parts(self.plan, stage, {name: a.sha256 for name, a in inputs.items()})
        record.key = key_of(parts)
        self.run_dir.write_json(f"{folder.relative_to(self.run_dir.path)}/key.json", parts)
        self.run_dir.write_json(f"{folder.relative_to(self.run_dir.path)}/code.json", code_parts(stage))
        with self.store.lock(record.key):
            stored = self.store.load(record.key) if stage.id not in options.force and stage.spec.cacheable else None
            if stored is not None:
                self._fill(record, stored, Status.RESTORED)
                write_restored_log(folder / "log.txt", stored)
                return
            if options.from_ is not None and self._is_before(stage, options.from_):
                what = f"stage '{stage.id}' comes before it and has no stored result"
                raise UsageError(f"--from {options.from_}", what, f"run without --from, or from '{stage.id}'")
            if stage.id in options.force:
                self.store.finish(record.key)
            self._run(number, stage, record, folder, inputs)

    def _run(self, number: int, stage: PlannedStage, record: StageRecord, folder: Path, inputs: dict[str, Artifact]) -> None:
        workdir, log, begin = self.store.workdir(record.key), folder / "log.txt", time.monotonic()
        log.touch()
        progress = self.progress(stage.id, number, len(self.plan.stages), log, self.run_dir.event)
        context = context_of(self.plan, stage, inputs, workdir, progress, self.store.shared)
        self.open = number, record, folder, progress
        with progress, self.crew.stage(stage, context, log):
            result = guarded(stage, context, log)
        self.open = None
        require_outputs(stage, result)
        seconds = time.monotonic() - begin
        outputs = {name: self.store.seal(output) for name, output in result.outputs.items()}
        stored = result_to_json(result, outputs, seconds, _stamp(time.time()), log.read_text(encoding="utf-8"))
        self.store.save(record.key, stored)
        if (workdir / "tensorboard").exists():
            shutil.copytree(workdir / "tensorboard", folder / "tensorboard", dirs_exist_ok=True)
        self.store.finish(record.key)
        self._fill(record, stored, Status.RETREATED if result.retreated else Status.RAN)

    def _fill(self, record: StageRecord, stored: dict[str, Any], status: Status) -> None:
        record.status, record.seconds, record.measured_at = status, stored["seconds"], stored["measured_at"]
        record.outputs = {name: self.store.artifact(entry) for name, entry in stored["outputs"].items()}
        record.measurements = measurements_from_json(stored["measurements"])
        record.candidates, record.notes = stored["candidates"], list(stored["notes"])
        if status is Status.RESTORED and stored["retreated"]:
            record.notes.append("the restored result is one that the stage retreated to")

    def _is_before(self, stage: PlannedStage, other: str) -> bool:
        order = [s.id for s in self.plan.stages]
        return order.index(stage.id) < order.index(other)

    def _warn(self, line: str) -> None:
        self.run_dir.event("warning", text=line)
        self.say(f"warning: {line}")

    def _write_head(self, options: RunOptions) -> None:
        head = {
            "pipeline": str(self.plan.path),
            "target": self.plan.target.name,
            "started": _stamp(self.started),
            "host": machine_facts(),
            "options": {name: getattr(options, name) for name in options.__slots__},
        }
        self.run_dir.write_json("run.json", head)
        resolved = self.plan.file.model_dump(mode="json", by_alias=True, exclude_none=True)
        self.run_dir.write_text("pipeline.resolved.yaml", yaml.safe_dump(resolved, sort_keys=False))
        self.run_dir.write_text("target.resolved.yaml", yaml.safe_dump(self.plan.target.model_dump(mode="json"), sort_keys=False))

    def _write_report(self, best: Verdict = Verdict.PASSED) -> dict[str, Any]:
        records = list(self.records.values())
        verdicts = {r.verdict() for r in records if r.status is not Status.SKIPPED}
        worst = next((v for v in (Verdict.FAILED, Verdict.UNPROVEN) if v in verdicts), best)
        report = {
            "schema": REPORT_SCHEMA,
            "target": self.plan.target.name,
            "target_title": self.plan.target.title,
            "frame": f"{self.plan.target.frame.width}x{self.plan.target.frame.height}",
            "latency_budget_ms": self.plan.target.latency_budget_ms,
            "verdict": str(worst),
            "seconds": round(time.time() - self.started, 3),
            "started": _stamp(self.started),
            "host": machine_facts(),
            "bundle": "bundle" if (self.run_dir.path / "bundle").exists() else None,
            "stages": [r.to_json() for r in records],
        }
        if "test" in self.plan.data and any(a.kind == "samples" for r in records for a in r.outputs.values()):
            write_test_pairs(self.plan.data["test"], self.run_dir.path / "samples")
        self.run_dir.write_json("report.json", report)
        self.run_dir.write_text("report.md", render_markdown(report, self.run_dir.path))
        self.run_dir.write_text("report.html", render_html(report, self.run_dir.path))
        self.run_dir.event("run_finished", verdict=str(worst))
        return report


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def exit_error(records: Sequence[StageRecord]) -> tuple[str, Outcome] | None:
    """The first gate that did not pass, as (stage id, outcome): a failed one before an unproven one."""
    for verdict in (Verdict.FAILED, Verdict.UNPROVEN):
        for record in records:
            for outcome in record.gates:
                if outcome.verdict is verdict:
                    return record.stage.id, outcome
    return None
