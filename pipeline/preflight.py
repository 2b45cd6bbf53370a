"""What can be said of a run before it starts, in seconds: data, toolchains, and whether the student suits its target.

The spine asks; who knows is found by import path: each stage's ``preflight``, ``compile.preflight`` for the target's backends where a
stage makes engines, ``search.forecast`` for the latency of an untrained student.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.contract import Kind, Problem
from pipeline.errors import PipelineError, StageFailed, ToolchainMissing, UsageError
from pipeline.plan import ROOT, Plan, PlannedStage
from pipeline.report.numbers import LABELS


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found. ``error`` is what would stop the run; None for a warning."""

    where: str
    what: str
    error: PipelineError | None = None

    @property
    def level(self) -> str:
        """One of "error", "missing" (a toolchain) and "warning"."""
        return "warning" if self.error is None else "missing" if isinstance(self.error, ToolchainMissing) else "error"


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that a stage reads, as far as a look at its names and its first pair tells; size is (width, height) in pixels."""

    role: str
    pairs: int
    scenes: int
    size: tuple[int, int]


def data_sets(plan: Plan) -> Iterator[DataSet | Finding]:
    """Each data set of the plan; instead of one whose first pair cannot be read, or is smaller than a training crop, the error."""
    crop = max((side for s in plan.stages if "train" in s.spec.data for side in crops(s.config.model_dump())), default=0)
    for role, source in sorted(plan.data.items()):
        where = f"{plan.path.name}: data.{role}"
        try:
            height, width = source[0].lq.shape[:2]
        except UsageError as e:
            yield Finding(e.where, e.what, e)
            continue
        if role == "train" and min(height, width) < crop:
            what = f"its first pair is {width}x{height} pixels, smaller than the training crop of {crop}"
            yield Finding(where, what, UsageError(where, what, "give larger images, or a smaller 'crop'"))
        yield DataSet(role, len(source), len(source.scenes()), (width, height))


def crops(config: Any) -> Iterator[int]:
    """Every ``crop`` in a configuration."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if key == "crop" and isinstance(value, int):
            yield value
        for part in value if isinstance(value, list | tuple) else [value]:
            yield from crops(part)


def shared_scenes(plan: Plan) -> Iterator[Finding]:
    """Scenes that are trained on and calibrated with: allowed, but what is chosen by them was seen; the test set's are refused."""
    if not {"train", "calibrate"} <= plan.data.keys():
        return
    train, calibrate = plan.data["train"].scenes(), plan.data["calibrate"].scenes()
    contents = set(train.values())
    both = sorted(scene for scene, digest in calibrate.items() if scene in train or digest in contents)
    if both:
        what = f"{len(both)} of its {len(calibrate)} scenes are also in data.train ('{both[0]}'): what is chosen by them was trained on"
        yield Finding(f"{plan.path.name}: data.calibrate", what)


def toolchains(plan: Plan) -> Iterator[Finding]:
    """Distributions that stages name and that are not installed, and what the target's backends say of themselves."""
    for stage in plan.stages:
        if _makes_engines(stage):
            only = getattr(stage.config, "backends", ())
            yield from _asked(lambda: importlib.import_module("compile.preflight").backends(plan.target, only))  # noqa: B023 - called at once
            continue
        for name in stage.spec.toolchain:
            if not _installed(name):
                where, what = f"stage {stage.id}", f"needs {name}, which is not installed"
                yield Finding(where, what, ToolchainMissing(where, what, install_line(name)))


def stages(plan: Plan) -> Iterator[Finding]:
    """What the stages themselves have to say."""
    plan = _narrowed(plan)
    for stage in plan.stages:
        if stage.spec.preflight:
            module, _, function = stage.spec.preflight.partition(":")
            yield from _asked(lambda: getattr(importlib.import_module(module), function)(stage, plan))  # noqa: B023 - called at once


def metrics(plan: Plan) -> Iterator[Finding]:
    """Gates on what looks like a misspelt measurement: they would stay unproven, and that only shows when the stage is done."""
    for stage in plan.stages:
        for i, gate in enumerate(stage.gates):
            near = [] if gate.metric in LABELS else difflib.get_close_matches(gate.metric, LABELS, n=1)
            if near:
                where = f"{plan.path.name}: stages.{stage.id}.gates.{i}.metric"
                yield Finding(where, f"'{gate.metric}' is no measurement that is known; did you mean '{near[0]}'?")


def forecast(plan: Plan) -> tuple[list[Any], list[Finding]]:
    """Estimates of the untrained student (``search.forecast.Forecast``), and a finding for each that exceeds the budget.

    Raises:
        StageFailed: the student cannot be exported, or the target has no rates.

    """
    module = importlib.import_module("search.forecast")
    if module.possible(plan):
        return [], []
    found = list(module.forecasts(_narrowed(plan)))
    over = [f for f in found if not f.p90_ms <= f.budget_ms]
    where = f"{plan.path.name} for {plan.target.name}"
    return found, [
        Finding(where, f"the {f.what} takes an estimated {f.p90_ms:.1f} ms (p90), over the budget of {f.budget_ms:g}") for f in over
    ]


def warnings(plan: Plan) -> list[Finding]:
    """What ``run`` says before it starts: everything but estimates and what would stop it by itself."""
    found = [*metrics(plan), *shared_scenes(plan), *toolchains(plan), *stages(plan)]
    return [f for f in found if f.level == "warning"]


def install_line(distribution: str) -> str:
    """The line that installs a distribution: by the extra that brings it, else by its name."""
    extras: dict[str, Sequence[str]] = {}
    file = ROOT / "pyproject.toml"
    if file.exists():
        extras = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra, requirements in extras.items():
        if any(r.startswith(distribution) and not r[len(distribution) :][:1].isalnum() for r in requirements):
            return f'pip install -e ".[{extra}]"'
    return f"pip install {distribution}"


def _asked(ask: Callable[[], Sequence[Problem]]) -> Iterator[Finding]:
    """Findings of somebody who returns problems and raises what would stop the run."""
    try:
        problems = ask()
    except (UsageError, ToolchainMissing, StageFailed) as e:
        yield Finding(e.where, e.what, e)
        return
    for problem in problems:
        yield Finding(problem.where, problem.what)


def _narrowed(plan: Plan) -> Plan:
    """The plan with no backend in its target but those that its stages are kept to; whole where one stage is kept to none."""
    named = [getattr(s.config, "backends", ()) for s in plan.stages if _makes_engines(s)]
    only = {name for names in named for name in names} if all(named) else set()
    kept = tuple(b for b in plan.target.backends if b.use in only)
    return replace(plan, target=plan.target.model_copy(update={"backends": kept})) if kept else plan


def _makes_engines(stage: PlannedStage) -> bool:
    return Kind.ENGINE in stage.spec.produces.values()


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
