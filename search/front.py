"""The Pareto front of a study, and what is written of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.contract import Evidence, Measurement
from pipeline.serial import measurement_to_json, measurements_from_json
from pipeline.store import write_atomic
from search.candidate import candidate, portable
from search.problem import Problem
from search.space import in_short
from search.trial import REASON, ROWS, SAME

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Point:
    """A trial with a result.

    gain  PSNR of the proxy over the blurred input, in dB, higher is better
    ms    estimated p50 for one frame of the target
    over  the limits that it breaks: "latency", "size"
    """

    trial: int
    params: Mapping[str, Any]
    gain: float
    ms: float
    over: tuple[str, ...]
    measurements: tuple[Measurement, ...]

    def row(self, name: str, evidence: Evidence | None = None) -> Measurement:
        """The measurement of that name."""
        return next(m for m in self.measurements if m.name == name and evidence in (None, m.evidence))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a study has found.

    front     nothing is both faster and better; fastest first. Within the limits, unless no point is
    others    the other points
    unlucky   (trial, reason) of trials without a result
    """

    front: tuple[Point, ...]
    others: tuple[Point, ...]
    unlucky: tuple[tuple[int, str], ...]

    @property
    def within_limits(self) -> bool:
        """Whether the front keeps to the limits."""
        return not any(p.over for p in self.front)


def outcome(trials: Sequence[FrozenTrial]) -> Outcome:
    """The front of finished trials; of those that share a result the first counts."""
    points = [_point(t) for t in trials if t.state.name == "COMPLETE" and SAME not in t.user_attrs]
    allowed = [p for p in points if not p.over] or points
    front = sorted((p for p in allowed if not any(_dominates(q, p) for q in allowed)), key=lambda p: (p.ms, p.trial))
    unlucky = tuple((t.number, str(t.user_attrs.get(REASON, "no reason was recorded"))) for t in trials if t.state.name != "COMPLETE")
    return Outcome(tuple(front), tuple(p for p in points if p not in front), unlucky)


def _point(trial: FrozenTrial) -> Point:
    over = tuple(sorted(name for name, value in trial.constraints.items() if not value <= 0))
    gain, ms = trial.values
    return Point(trial.number, trial.params, gain, ms, over, tuple(measurements_from_json(trial.user_attrs[ROWS])))


def _dominates(a: Point, b: Point) -> bool:
    """Whether ``a`` is as good in both respects and better in one; of equals, the earlier trial."""
    if (a.gain, a.ms) == (b.gain, b.ms):
        return a.trial < b.trial
    return a.gain >= b.gain and a.ms <= b.ms


def write_pipelines(problem: Problem, found: Outcome, folder: Path) -> dict[int, Path]:
    """Write one ready-to-run pipeline file per point of the front, in place of those of an earlier front.

    Returns:
        Trial -> file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("trial-*.yaml"):
        old.unlink()
    paths = {p.trial: folder / f"trial-{p.trial}.yaml" for p in found.front}
    for point in found.front:
        tree = portable(problem, candidate(problem, point.params))
        write_atomic(
            paths[point.trial],
            _head(problem, point, paths[point.trial].name) + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=140),
        )
    return paths


def _head(problem: Problem, point: Point, file: str) -> str:
    plan, gain = problem.plan, point.row("psnr_gain")
    frame = f"{plan.target.frame.width}x{plan.target.frame.height}"
    return (
        f"# Found by a search of {plan.path.name} for {plan.target.name}, trial {point.trial}:\n"
        f"#   {in_short(point.params)}\n"
        f"# {point.ms:.3g} ms for {frame}, estimated for {plan.target.name}; {gain.value:+.3f} dB over the blurred input after "
        f"{problem.steps} steps,\n# on {gain.samples} calibration images, measured on the machine that searched.\n"
        f"#   python -m pipeline run {file} --target {plan.target.name}\n"
    )


def to_json(problem: Problem, study: Mapping[str, str], found: Outcome, files: Mapping[int, Path], full: Sequence[Any]) -> dict[str, Any]:
    """``front.json``: the search, its front, every other point, every trial without a result, and the full runs."""
    plan, limits = problem.plan, problem.limits
    return {
        "schema": SCHEMA,
        "pipeline": str(plan.path.resolve()),
        "target": plan.target.name,
        "frame": f"{plan.target.frame.width}x{plan.target.frame.height}",
        "limits": {"latency_p90_ms": limits.budget_ms, "size_mb": limits.size_mb},
        "within_limits": found.within_limits,
        "proxy": {"steps": problem.steps, "split": "calibrate", "seed": plan.seed},
        "study": dict(study),
        "front": [{**_entry(p), "pipeline": str(files[p.trial])} for p in found.front],
        "others": [_entry(p) for p in found.others],
        "without_result": [{"trial": number, "reason": reason} for number, reason in found.unlucky],
        "full_runs": list(full),
    }


def _entry(point: Point) -> dict[str, Any]:
    rows = [measurement_to_json(m) for m in point.measurements]
    return {"trial": point.trial, "params": dict(point.params), "over": list(point.over), "measurements": rows}
