"""Runs side by side: each stage's measurements and gates, with the difference from the first run and its direction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.runs import read_report

SETTINGS = ("frame", "backend", "precision", "artifact", "split", "against", "threads", "model")
"""Conditions that make two measurements of one name different things; the others (spread, loads, temperatures) vary from run to run."""

_HEAD = ("target", "verdict", "frame", "latency_budget_ms", "seconds", "started", "host")
_HOST = ("cpu", "cores", "arch")  # what a timing rests on


def compare(runs: Sequence[Path]) -> dict[str, Any]:
    """The comparison as JSON.

    Args:
        runs: folders of at least two runs; the first is the one that differences are taken from.

    Returns:
        ``runs``: name, path and head of each report. ``measurements`` and ``gates``: one row each, in the order of the first run that
        has it, with an entry for each run in ``cells`` (None where a run has none). A measurement's cell: value, samples, difference
        from the first run and ``direction`` (better, worse, equal, or None where it cannot be told). ``notes``: what forbids a plain
        comparison.

    Raises:
        UsageError: a run has no readable report.

    """
    reports = [read_report(run) for run in runs]
    heads = [{"name": run.name, "path": str(run)} | {k: r.get(k) for k in _HEAD} for run, r in zip(runs, reports, strict=True)]
    return {
        "runs": heads,
        "notes": _notes(heads),
        "stages": _stages(reports),
        "measurements": _rows([_measurements(r) for r in reports]),
        "gates": _gates(reports),
    }


def _notes(heads: Sequence[Mapping[str, Any]]) -> list[str]:
    notes = []
    if len({str(h["target"]) for h in heads}) > 1:
        notes.append("the runs are for different targets: estimates and bounds are not comparable")
    hosts = {tuple(str((h["host"] or {}).get(k)) for k in _HOST) for h in heads}
    if len(hosts) > 1:
        notes.append("the runs were made on different machines: timings measured on the host are not comparable")
    return notes


def _stages(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = [{s["id"]: {"status": s.get("status"), "key": s.get("key")} for s in r["stages"]} for r in reports]
    return [{"stage": name, "cells": [f.get(name) for f in found]} for name in _names(found)]


def _measurements(report: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Identity -> measurement; where several have one identity, the second gets a number, and so on."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for stage in report["stages"]:
        for entry in stage.get("measurements", ()):
            conditions = entry.get("conditions") or {}
            settings = ", ".join(f"{k} {conditions[k]}" for k in SETTINGS if k in conditions)
            head = (str(stage["id"]), str(entry.get("name")), str(entry.get("unit") or ""), str(entry.get("evidence")), settings)
            seen[head] += 1
            found[(*head, str(seen[head]))] = entry
    return found


def _rows(found: Sequence[Mapping[tuple[str, ...], dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for identity in _names(found):
        entries = [f.get(identity) for f in found]
        stage, name, unit, evidence, settings, _ = identity
        better = next(str(e.get("better")) for e in entries if e)
        head = {"stage": stage, "name": name, "unit": unit, "evidence": evidence, "settings": settings, "better": better}
        rows.append(head | {"cells": [_cell(e, entries[0], better) for e in entries]})
    return rows


def _cell(entry: Mapping[str, Any] | None, first: Mapping[str, Any] | None, better: str) -> dict[str, Any] | None:
    if entry is None:
        return None
    value, base = entry.get("value"), first.get("value") if first else None
    cell: dict[str, Any] = {"value": value, "samples": entry.get("samples"), "difference": None, "direction": None}
    if isinstance(value, int | float) and isinstance(base, int | float):
        cell["difference"] = value - base
        cell["direction"] = "equal" if value == base else "better" if (value > base) == (better == "higher") else "worse"
    return cell


def _gates(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each stage, metric, rule, ``against``, statistic and evidence; the bound may differ from run to run."""
    found: list[dict[tuple[str, ...], dict[str, Any]]] = []
    for report in reports:
        gates: dict[tuple[str, ...], dict[str, Any]] = {}
        seen: Counter[tuple[str, ...]] = Counter()
        for stage in report["stages"]:
            for gate in stage.get("gates", ()):
                head = (str(stage["id"]), *(str(gate.get(k) or "") for k in ("metric", "rule", "against", "statistic")))
                seen[head] += 1
                gates[(*head, str(seen[head]))] = {k: gate.get(k) for k in ("bound", "value", "unit", "evidence", "verdict")}
        found.append(gates)
    keys = ("stage", "metric", "rule", "against", "statistic")
    return [dict(zip(keys, i[:5], strict=True)) | {"cells": [f.get(i) for f in found]} for i in _names(found)]


def _names(found: Sequence[Mapping[Any, Any]]) -> list[Any]:
    """Every key, in the order of the first mapping that has it."""
    return list(dict.fromkeys(key for mapping in found for key in mapping))
