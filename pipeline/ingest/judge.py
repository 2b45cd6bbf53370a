"""A run's report with a board's numbers in it, its gates judged again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import PipelineFile
from pipeline.contract import Evidence, Measurement, Verdict
from pipeline.errors import UsageError
from pipeline.gates import Outcome, judge
from pipeline.ingest.figures import ERROR, prediction_errors
from pipeline.serial import measurement_to_json, measurements_from_json
from pipeline.target import Target

TIMED = ("latency_", "energy", "peak_memory")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of a result.

    report  the run's report with the result in it
    stage   id of the stage that got the numbers
    unmet   the first gate that did not pass, as (stage id, outcome): a failed one before an unproven one
    """

    report: dict[str, Any]
    stage: str
    unmet: tuple[str, Outcome] | None


def judged(
    report: Mapping[str, Any], file: PipelineFile, target: Target, artifact: str, rows: Sequence[Measurement], required: Evidence | None
) -> Judgement:
    """Put the chosen artifact's measurements into the stage whose gates speak of time, and judge it and what is held against it again.

    Args:
        report: the run's report.json; not changed.
        file: the run's pipeline, for its gates.
        target: the run's target, for bounds of the form ``target.<field>``.
        artifact: name of the measured artifact.
        rows: its measurements.
        required: evidence that the run requires of gates on time.

    Raises:
        UsageError: no stage of the run has anything to do with time.

    """
    new: dict[str, Any] = copy.deepcopy(dict(report))
    stage = _timed_stage(new, file)
    earlier = measurements_from_json(stage["measurements"])
    errors = prediction_errors(earlier, rows, artifact)
    names = {m.name for m in (*rows, *errors)}
    kept = [m for m in earlier if not (m.evidence is Evidence.TARGET and m.name in names) and not m.name.startswith(ERROR)]
    stage["measurements"] = [measurement_to_json(m) for m in (*kept, *rows, *errors)]
    measured = {s["id"]: measurements_from_json(s["measurements"]) for s in new["stages"]}
    for entry in new["stages"]:
        gates = file.stages[entry["id"]].gates if entry["id"] in file.stages else ()
        if entry["gates"] and (entry is stage or any(g.against == stage["id"] for g in gates)):
            entry["gates"] = [judge(g, measured[entry["id"]], measured, target, required).to_json() for g in gates]
    new["verdict"] = str(_verdict(new))
    return Judgement(new, stage["id"], unmet_gate(new))


def beside(report: Mapping[str, Any], artifact: str, rows: Sequence[Measurement]) -> dict[str, Any]:
    """The report with the measurements of an artifact that was not chosen, kept with its candidate; no gate speaks of it.

    Raises:
        UsageError: the run has no such candidate.

    """
    new: dict[str, Any] = copy.deepcopy(dict(report))
    found = [c for s in new["stages"] for c in s["candidates"] if c["name"] == artifact]
    if not found:
        raise UsageError(
            artifact, "is neither the chosen artifact nor a candidate of the run", "bench an artifact that the run's report lists"
        )
    names = {m.name for m in rows}
    kept = [m for m in found[-1]["measurements"] if not (m["evidence"] == Evidence.TARGET and m["name"] in names)]
    found[-1]["measurements"] = [*kept, *(measurement_to_json(m) for m in rows)]
    return new


def unmet_gate(report: Mapping[str, Any]) -> tuple[str, Outcome] | None:
    """The first gate of a report that did not pass, a failed one before an unproven one."""
    for verdict in (Verdict.FAILED, Verdict.UNPROVEN):
        for stage in report["stages"]:
            for gate in stage["gates"]:
                if gate["verdict"] == verdict:
                    return stage["id"], Outcome(**{**gate, "verdict": verdict})
    return None


def _timed_stage(report: Mapping[str, Any], file: PipelineFile) -> dict[str, Any]:
    """The last stage with an estimate of a latency, or with a gate on time."""
    stages = [s for s in report["stages"] if s["status"] not in {"skipped", "failed"}]
    stage: dict[str, Any]
    for stage in reversed(stages):
        if any(m["name"].startswith("latency_") and m["evidence"] == Evidence.ESTIMATED for m in stage["measurements"]):
            return stage
    for stage in reversed(stages):
        gates = file.stages[stage["id"]].gates if stage["id"] in file.stages else ()
        if any(g.metric.startswith(TIMED) for g in gates):
            return stage
    raise UsageError(
        "the run", "has no finished stage that estimates or judges a latency", "add a benchmark stage to the pipeline and run it"
    )


def _verdict(report: Mapping[str, Any]) -> Verdict:
    """As the runner has it: skipped stages do not count."""
    ran = [s for s in report["stages"] if s["status"] != "skipped"]
    found = {g["verdict"] for s in ran for g in s["gates"]}
    if Verdict.FAILED in found or any(s["status"] == "failed" for s in ran):
        return Verdict.FAILED
    return Verdict.UNPROVEN if Verdict.UNPROVEN in found else Verdict.PASSED
