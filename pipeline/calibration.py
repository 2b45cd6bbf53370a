"""Calibration files: what microbenchmarks taught about a machine, kept in the workspace and added to the target that it belongs to.

::

    <workspace>/calibration/<target>.json              a board's, as ``bench --calibrate`` recorded it
    <workspace>/calibration/host-<fingerprint>.json    this machine's; another machine does not find it
    <workspace>/calibration/predictions.jsonl          estimates, and what was measured later, as ``ingest`` brought it

Estimates with it stay estimates (evidence ``estimated``).
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UsageError
from pipeline.machine import machine_facts
from pipeline.store import write_atomic
from pipeline.target import Calibration, Target

PREDICTIONS = "predictions.jsonl"
"""Beside the calibrations: each estimate with the measurement that came after it (``targets.predictions``)."""


class Recorded(BaseModel):
    """One backend in one precision: the fit, and the timed networks behind it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs_on: Literal["cpu", "gpu"]
    calibration: Calibration
    rows: tuple[dict[str, Any], ...] = Field(default=(), description="as targets.calibration writes them")
    when: str = Field(default="", description="time of the measurement, UTC, as 2026-03-02T10:00:00Z; empty: not noted")
    board: str = Field(default="", description="what was measured, in words")


class CalibrationFile(BaseModel):
    """The file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[1] = Field(default=1, alias="schema", description="version of this file")
    target: str = Field(description="name of the target that was measured")
    machine: dict[str, Any] = Field(description="what the machine says of itself")
    recorded: tuple[Recorded, ...]


def fingerprint() -> str:
    """Of this machine's processor: 12 hex digits; a new kernel or Python does not change it."""
    facts = machine_facts()
    return hashlib.sha256(json.dumps([facts["cpu"], facts["arch"]]).encode()).hexdigest()[:12]


def calibration_path(workspace: Path, target: Target) -> Path:
    """Where the calibration of a target is kept."""
    name = f"host-{fingerprint()}" if target.is_host else target.name
    return workspace / "calibration" / f"{name}.json"


def workspace_of_run(run: Path, otherwise: Path) -> Path:
    """The workspace that a run's folder lies in; ``otherwise`` where it lies in none."""
    runs = run.resolve().parent
    return runs.parent if runs.name == "runs" else otherwise


def record(workspace: Path, target: Target, recorded: Sequence[Recorded], machine: dict[str, Any] | None = None) -> Path:
    """Write or extend a target's calibration; what is there of the same backend, precision and threads is replaced.

    Args:
        workspace: of the pipeline.
        target: what was measured.
        recorded: the new fits.
        machine: what the board says of itself; this machine's facts when left out.

    Returns:
        The file's path.

    """
    path = calibration_path(workspace, target)
    new = {_key(r) for r in recorded}
    kept = [r for r in read(path).recorded if _key(r) not in new] if path.exists() else []
    content = CalibrationFile(schema=1, target=target.name, machine=machine or dict(machine_facts()), recorded=(*kept, *recorded))
    write_atomic(path, json.dumps(content.model_dump(mode="json", by_alias=True), indent=1) + "\n")
    return path


def read(path: Path) -> CalibrationFile:
    """Read a calibration file.

    Raises:
        UsageError: it cannot be read, or is none.

    """
    try:
        return CalibrationFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as e:
        raise UsageError(str(path), f"is no calibration ({str(e).splitlines()[0]})", "delete it, or record it again") from None


def refined(target: Target, workspace: Path) -> Target:
    """The target with what was measured on it, where anything was; else the target as it is.

    Raises:
        UsageError: a damaged file, one of another target, or one for a processor that the target states no rates for.

    """
    path = calibration_path(workspace, target)
    if not path.exists():
        return target
    content = read(path)
    if content.target != target.name:
        raise UsageError(
            str(path), f"was recorded on '{content.target}', not on '{target.name}'", "move it away: it belongs to another board"
        )
    rates = dict(target.rates)
    for r in content.recorded:
        if r.runs_on not in rates:
            raise UsageError(str(path), f"has figures for the {r.runs_on}, which '{target.name}' states no rates for", "record it again")
        old = rates[r.runs_on]
        rates[r.runs_on] = old.model_copy(update={"calibrations": (*old.calibrations, r.calibration)})
    return target.model_copy(update={"rates": rates})


def described(recorded: Recorded) -> str:
    """One fit in words: of what, from how much, how good, how old."""
    c = recorded.calibration
    threads = f" {c.threads} thread{'s' * (c.threads != 1)}" if recorded.runs_on == "cpu" else ""
    parts = [
        f"{c.backend} {c.precision} on the {recorded.runs_on}{threads}: {c.networks} microbenchmarks",
        *([f"on {recorded.board}"] if recorded.board else []),
        f"left-out error {c.error:.0%}",
        age(recorded.when),
    ]
    return ", ".join(parts)


def learned(target: Target, workspace: Path) -> Iterator[str]:
    """Lines on what was learned of a target's speed: each calibration with its age, its file, and how far estimates were off since.

    Raises:
        UsageError: a damaged file.

    """
    path = calibration_path(workspace, target)
    if path.exists():
        yield from (described(r) for r in read(path).recorded)
        yield str(path)
    predictions = importlib.import_module("targets.predictions")
    yield from predictions.summary(p for p in predictions.read(workspace / "calibration" / PREDICTIONS) if p.target == target.name)


def age(when: str, now: datetime | None = None) -> str:
    """How long ago a time (UTC, as in ``Recorded.when``) was, in words.

    Args:
        when: the time; empty where it was not noted.
        now: by default the present.

    """
    try:
        then = datetime.fromisoformat(when)
    except ValueError:
        return "of unknown age"
    seconds = ((now or datetime.now(UTC)) - then).total_seconds()
    unit, size = next(((u, n) for u, n in (("day", 86400), ("hour", 3600), ("minute", 60)) if seconds >= n), ("minute", 60))
    count = max(0, int(seconds // size))
    return f"{count} {unit}{'s' * (count != 1)} old"


def _key(r: Recorded) -> tuple[object, ...]:
    return r.runs_on, r.calibration.backend, r.calibration.precision, r.calibration.threads
