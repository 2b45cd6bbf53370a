"""A proxy: the pipeline's own stages with short trainings, judged on the calibration set. The test set is never seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.contract import Artifact, Kind, Measurement, Progress, StageResult
from pipeline.errors import StageFailed
from search.candidate import Tree, planned
from search.cost import Cost, folder_cost
from search.problem import Problem
from search.stages import artifact_of, run_short

Inputs = Mapping[str, Artifact]
"""``stage.output`` -> artifact."""

ProgressOf = Callable[[str], Progress]
"""Stage id -> the display of that stage."""


def run_proxy(problem: Problem, tree: Tree, before: Inputs, workdir: Path, progress: ProgressOf) -> tuple[list[Measurement], Cost | None]:
    """Train, prune and quantize a candidate in little time.

    Args:
        problem: the pipeline; its ``steps`` are those of the student.
        tree: see ``search.candidate``.
        before: artifacts of the stages before the student.
        workdir: keeps the trainings' checkpoints, so that an interrupted proxy goes on.
        progress: makes the display of a stage from its id.

    Returns:
        Measurements of the last stage on the calibration set, and the cost of what it handed on, None where that is no ONNX.

    Raises:
        UsageError: settings that do not fit the network or the images.
        StageFailed: a training diverged, or a stage could not do its work.
    """
    known, last = dict(before), StageResult({})
    stages = [planned(problem, tree, id_) for id_ in problem.tail if id_ in tree["stages"]]
    factor = problem.steps / _student_steps(problem)
    for stage in stages:
        inputs = {name: known[f"{source}.{output}"] for name, (source, output) in stage.needs.items()}
        last = run_short(problem.plan, stage, inputs, workdir / stage.id, progress(stage.id), factor)
        known |= {f"{stage.id}.{name}": artifact_of(output) for name, output in last.outputs.items()}
    return list(last.measurements), _cost(problem, last)


def pick(measurements: list[Measurement], name: str) -> Measurement:
    """The finite measurement of that name.

    Raises:
        StageFailed: it is missing, or not a number.
    """
    found = next((m for m in measurements if m.name == name), None)
    if found is None or not found.finite:
        value = "was not measured" if found is None else f"is {found.value}"
        raise StageFailed("proxy", f"{name} of the last stage {value}", "look at the trial's log")
    return found


def _student_steps(problem: Problem) -> int:
    config: Any = problem.student.config
    return int(config.train.steps)


def _cost(problem: Problem, last: StageResult) -> Cost | None:
    from quantize.artifact import ModelFolder

    written = next((o for o in last.outputs.values() if o.kind is Kind.ONNX), None)
    return folder_cost(ModelFolder(written.path), problem.plan.target, tuple(last.measurements)) if written is not None else None
