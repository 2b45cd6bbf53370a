"""Gates: a measurement held against a bound. Pure; three verdicts, and a comparison is written so that NaN fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import Gate
from pipeline.contract import Better, Evidence, Measurement, Verdict
from pipeline.errors import UsageError, did_you_mean
from pipeline.target import Target

BOOTSTRAP_ROUNDS = 2000
_STRENGTH = {Evidence.ESTIMATED: 0, Evidence.HOST: 1, Evidence.TARGET: 2}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a gate said, with everything that a reader needs to check it."""

    metric: str
    rule: str
    bound: float
    against: str | None
    statistic: str
    value: float | None
    unit: str
    evidence: str | None
    verdict: Verdict
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The gate's entry in report.json."""
        finite = self.value if self.value is not None and math.isfinite(self.value) else None
        return {name: getattr(self, name) for name in self.__slots__} | {"verdict": str(self.verdict), "value": finite}


def judge(
    gate: Gate,
    own: Sequence[Measurement],
    others: Mapping[str, Sequence[Measurement]],
    target: Target,
    required: Evidence | None = None,
) -> Outcome:
    """Judge one gate.

    Args:
        gate: the rule and its bound.
        own: the stage's measurements.
        others: measurements of the stages before it, by id.
        target: resolves bounds of the form ``target.<field>``.
        required: with ``TARGET``, a gate on speed or energy is unproven until the device itself was measured.

    Raises:
        UsageError: the bound names a field that the target has not.

    """
    bound = bound_of(gate, target)
    need = _needed(gate, required)
    if _of_the_device(gate.metric) and isinstance(getattr(gate, gate.rule), str):
        own = [m for m in own if m.evidence is not Evidence.HOST]  # this machine's time says nothing about the target's budget
    mine, problem = _pick(own, gate.metric, need, gate.unit)
    if mine is None:
        return _outcome(gate, bound, None, None, Verdict.UNPROVEN, problem)
    if mine.conditions.get("stable") is False:
        return _outcome(gate, bound, mine, None, Verdict.UNPROVEN, "the timing was unstable, so it proves nothing")
    if gate.against is None:
        value = mine.value
        passed = value >= bound if gate.rule == "at_least" else value <= bound
        return _outcome(gate, bound, mine, value, Verdict.PASSED if passed else Verdict.FAILED, "")
    other, problem = _pick(others.get(gate.against, ()), gate.metric, need, gate.unit)
    if other is None:
        return _outcome(gate, bound, mine, None, Verdict.UNPROVEN, f"{gate.against}: {problem}")
    value, problem = _difference(gate, mine, other)
    if problem:
        return _outcome(gate, bound, mine, None, Verdict.UNPROVEN, problem)
    passed = value <= bound if gate.rule == "drop_at_most" else value >= bound
    return _outcome(gate, bound, mine, value, Verdict.PASSED if passed else Verdict.FAILED, "")


def bound_of(gate: Gate, target: Target) -> float:
    """The bound as a number; UsageError when it names a field that the target does not have, or that is no number."""
    raw = getattr(gate, gate.rule)
    if isinstance(raw, str):
        field = raw.removeprefix("target.")
        raw = getattr(target, field, None)
        if not isinstance(raw, int | float) or isinstance(raw, bool):
            known = [name for name, value in target if isinstance(value, int | float) and not isinstance(value, bool)]
            raise UsageError(f"gate on {gate.metric}", f"the target has no number '{field}'", did_you_mean(field, known))
    return float(raw)


def _needed(gate: Gate, required: Evidence | None) -> Evidence | None:
    return Evidence.TARGET if required is Evidence.TARGET and _of_the_device(gate.metric) else gate.evidence


def _of_the_device(metric: str) -> bool:
    """Whether a metric is another one on every device."""
    return metric.startswith(("latency", "energy", "peak_memory"))


def _pick(rows: Sequence[Measurement], metric: str, evidence: Evidence | None, unit: str | None) -> tuple[Measurement | None, str]:
    named = [m for m in rows if m.name == metric]
    if not named:
        return None, f"no measurement '{metric}'"
    if evidence is not None:
        named = [m for m in named if m.evidence is evidence or m.evidence is Evidence.TARGET]
        if not named:
            return None, f"no '{metric}' with evidence '{evidence}'"
    best = max(named, key=lambda m: _STRENGTH[m.evidence])
    if unit is not None and unit != best.unit:
        return None, f"'{metric}' is in {best.unit or 'no unit'}, the bound in {unit}"
    return best, ""


def _difference(gate: Gate, mine: Measurement, other: Measurement) -> tuple[float, str]:
    """How much worse (drop) or better (gain) ``mine`` is, by the gate's statistic."""
    sign = 1.0 if (mine.better is Better.HIGHER) == (gate.rule == "gain_at_least") else -1.0
    if gate.statistic == "mean":
        return sign * (mine.value - other.value), ""
    if not mine.values or len(mine.values) != len(other.values):
        return math.nan, f"statistic '{gate.statistic}' needs per-image values of both stages"
    pairs = [sign * (a - b) for a, b in zip(mine.values, other.values, strict=True)]
    worst_first = max if gate.rule == "drop_at_most" else min
    if gate.statistic == "worst":
        return (math.nan if any(math.isnan(p) for p in pairs) else worst_first(pairs)), ""
    return worst_first(_bootstrap_interval(pairs)), ""


def _bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (Efron 1979), with a fixed seed."""
    import numpy as np

    rng = np.random.default_rng(0)
    a = np.asarray(values)
    means = a[rng.integers(0, len(a), (BOOTSTRAP_ROUNDS, len(a)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _outcome(gate: Gate, bound: float, mine: Measurement | None, value: float | None, verdict: Verdict, reason: str) -> Outcome:
    unit = mine.unit if mine else gate.unit or ""
    evidence = str(mine.evidence) if mine else None
    return Outcome(gate.metric, gate.rule, bound, gate.against, gate.statistic, value, unit, evidence, verdict, reason)
