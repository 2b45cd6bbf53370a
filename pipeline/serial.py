"""Measurements, candidates and artifacts as JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contract import Artifact, Better, Candidate, Evidence, Measurement, StageResult


def measurement_to_json(m: Measurement) -> dict[str, Any]:
    """A measurement's entry in report.json; a number that is not finite becomes null with the word in ``conditions``."""
    conditions = dict(m.conditions)
    if not math.isfinite(m.value):
        conditions["not_finite"] = str(m.value)
    entry: dict[str, Any] = {
        "name": m.name,
        "value": m.value if math.isfinite(m.value) else None,
        "unit": m.unit,
        "better": str(m.better),
        "samples": m.samples,
        "evidence": str(m.evidence),
        "conditions": conditions,
    }
    if m.values:
        entry["values"] = [round(v, 6) if math.isfinite(v) else None for v in m.values]
    return entry


def measurement_from_json(entry: Mapping[str, Any]) -> Measurement:
    """The inverse of ``measurement_to_json``; a null value becomes NaN, which no gate passes."""
    return Measurement(
        name=entry["name"],
        value=_number(entry["value"]),
        unit=entry["unit"],
        better=Better(entry["better"]),
        samples=entry["samples"],
        evidence=Evidence(entry["evidence"]),
        conditions=entry["conditions"],
        values=tuple(_number(v) for v in entry.get("values", ())),
    )


def measurements_from_json(entries: Sequence[Mapping[str, Any]]) -> list[Measurement]:
    """A list of measurements."""
    return [measurement_from_json(e) for e in entries]


def candidate_to_json(c: Candidate) -> dict[str, Any]:
    """A candidate's entry in report.json."""
    rows = [measurement_to_json(m) for m in c.measurements]
    head = {"name": c.name, "backend": c.backend, "precision": c.precision, "chosen": c.chosen, "reason": c.reason}
    return {**head, "measurements": rows}


def result_to_json(result: StageResult, outputs: Mapping[str, Artifact], seconds: float, measured_at: str, log: str) -> dict[str, Any]:
    """A stage's result as the store keeps it: with its sealed outputs, how long it took, when it ended, and what it logged."""
    return {
        "outputs": {n: {"kind": str(a.kind), "sha256": a.sha256, "bytes": a.bytes, "facts": dict(a.facts)} for n, a in outputs.items()},
        "measurements": [measurement_to_json(m) for m in result.measurements],
        "candidates": [candidate_to_json(c) for c in result.candidates],
        "notes": list(result.notes),
        "retreated": result.retreated,
        "seconds": seconds,
        "measured_at": measured_at,
        "log": log,
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
