"""The search as a problem: which stages of the pipeline it varies, and the limits that hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.contract import Kind
from pipeline.errors import UsageError
from pipeline.plan import Plan, PlannedStage, canonical
from search.digest import digest_of
from search.space import SearchSpace

STUDENT, PRUNE, QUANTIZE = "distill.student", "prune.stage", "quantize.stage"
ROLES = ("train", "calibrate")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a network may cost. size_mb is None where the pipeline has no gate on size.

    budget_ms  largest estimated p90 latency for the target's frame
    factor     over budget_ms by more than this, a trial is not trained
    """

    budget_ms: float
    factor: float
    size_mb: float | None


@dataclass(frozen=True, slots=True)
class Problem:
    """A pipeline whose student is searched for its target.

    steps  optimizer steps of a proxy's student; every other training is cut in proportion
    tail   ids of the stages that a proxy runs, in order: the student and what is made of it, up to the compiler
    """

    plan: Plan
    space: SearchSpace
    steps: int
    limits: Limits
    student: PlannedStage
    prune: PlannedStage | None
    quantize: PlannedStage | None
    tail: tuple[str, ...]

    def stage(self, id_: str) -> PlannedStage:
        """The stage of that id in the pipeline as the user wrote it."""
        return next(s for s in self.plan.stages if s.id == id_)

    def tree(self) -> dict[str, Any]:
        """The pipeline file as the user wrote it, overrides included."""
        found: dict[str, Any] = self.plan.file.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return found

    def fingerprint(self) -> dict[str, dict[str, str]]:
        """What two commands must agree in to work on one study: part -> its digest, and a word for people where there is one."""
        plan = self.plan
        stages = canonical({"seed": plan.seed, "stages": self.tree()["stages"]})
        return {
            "pipeline": {"digest": digest_of(stages), "shown": plan.path.name},
            "data": {"digest": digest_of({role: plan.data[role].digest() for role in ROLES}), "shown": ""},
            "target": {"digest": digest_of(plan.target.model_dump(mode="json")), "shown": plan.target.name},
            "search space": {"digest": digest_of(self.space.model_dump(mode="json")), "shown": ""},
            "number of proxy steps": {"digest": digest_of(self.steps), "shown": str(self.steps)},
        }


def make_problem(plan: Plan, space: SearchSpace, steps: int) -> Problem:
    """Find the stages that are searched, by what they use.

    Raises:
        UsageError: no student, several, one whose weights are loaded, another architecture, or data that the proxies need is missing.
    """
    student = _student(plan)
    after = [s for s in plan.stages if student.id in _ancestors(plan, s.id)]
    prune, quantize = (_at_most_one(plan, [s for s in after if s.uses == uses], uses) for uses in (PRUNE, QUANTIZE))
    for role in ROLES:
        if role not in plan.data:
            what = "is not read by any stage, but proxies are trained on 'train' and judged on 'calibrate'"
            raise UsageError(f"{plan.path.name}: data.{role}", what, "search a pipeline that has a compile stage, which reads both")
    complete = space.on(plan.target, prune=prune is not None, quantize=quantize is not None)
    limits = Limits(
        _bound(plan, "latency_p90") or plan.target.latency_budget_ms, complete.latency_factor, _bound(plan, "size", {s.id for s in after})
    )
    tail = tuple(s.id for s in plan.stages if (s is student or s in after) and not _is_bundle_s(s))
    return Problem(plan, complete, steps, limits, student, prune, quantize, tail)


def _student(plan: Plan) -> PlannedStage:
    where = f"{plan.path.name}: stages"
    found = _at_most_one(plan, [s for s in plan.stages if s.uses == STUDENT], STUDENT)
    if found is None:
        raise UsageError(where, f"no stage uses {STUDENT}, so there is no student to search", f"add one: {{uses: {STUDENT}, needs: ...}}")
    arch, weights = getattr(found.config, "arch", ""), getattr(found.config, "weights", None)
    if weights is not None:
        raise UsageError(f"{where}.{found.id}.with.weights", f"'{Path(weights).name}' fixes the student", "remove it to search for another")
    if arch != "student":
        raise UsageError(f"{where}.{found.id}.with.arch", f"'{arch}' is not searched", "use the architecture 'student'")
    return found


def _at_most_one(plan: Plan, found: list[PlannedStage], uses: str) -> PlannedStage | None:
    if len(found) > 1:
        what = f"{len(found)} stages use {uses}: {', '.join(s.id for s in found)}"
        raise UsageError(f"{plan.path.name}: stages", what, "search a pipeline with one student, pruned and quantized once at most")
    return found[0] if found else None


def _ancestors(plan: Plan, id_: str) -> set[str]:
    needs: Mapping[str, PlannedStage] = {s.id: s for s in plan.stages}
    direct = {source for source, _ in needs[id_].needs.values()}
    return direct.union(*(_ancestors(plan, source) for source in direct))


def _is_bundle_s(stage: PlannedStage) -> bool:
    """Whether a stage makes or takes a bundle: compiling is left to full runs."""
    return Kind.BUNDLE in (*stage.spec.produces.values(), *stage.spec.consumes.values())


def _bound(plan: Plan, metric: str, stages: set[str] | None = None) -> float | None:
    """The bound of the last gate ``metric at_most``, of these stages or of any."""
    found = [g.at_most for s in plan.stages if stages is None or s.id in stages for g in s.gates if g.metric == metric]
    bounds = [b for b in found if b is not None]
    if not bounds:
        return None
    last = bounds[-1]
    value = getattr(plan.target, last.removeprefix("target."), None) if isinstance(last, str) else last
    if not isinstance(value, int | float):
        raise UsageError(f"gate on {metric}", f"the target has no number '{last}'", "e.g. target.latency_budget_ms")
    return float(value)
