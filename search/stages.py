"""Running the pipeline's stages by themselves, in little time, and never on the test set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.contract import Artifact, Output, Pair, PairSource, Progress, StageContext, StageResult
from pipeline.plan import Plan, PlannedStage
from pipeline.store import hash_path, size_of
from pipeline.target import TargetView
from train.config import TrainConfig

LENIENT: Mapping[str, Any] = {"min_speedup": 0.0, "max_drop": 1e3, "max_drop_worst": 1e3, "retreat": (), "seconds": 0.02}
"""Settings of any stage that has them: a proxy takes what it is given, for a stage that retreats would measure another network, and its
timings serve nobody."""


class Some:
    """The first pairs of a source."""

    def __init__(self, source: PairSource, count: int) -> None:
        self._source, self._count = source, min(count, len(source))

    def __len__(self) -> int:
        """Number of pairs."""
        return self._count

    def __getitem__(self, index: int) -> Pair:
        """Pair at ``index``; IndexError behind the last."""
        if index >= self._count:
            raise IndexError(index)
        return self._source[index]

    def digest(self) -> str:
        """Of the whole source."""
        return self._source.digest()

    def scenes(self) -> Mapping[str, str]:
        """Of the whole source."""
        return self._source.scenes()


def run_short(
    plan: Plan,
    stage: PlannedStage,
    inputs: Mapping[str, Artifact],
    workdir: Path,
    progress: Progress,
    factor: float,
    pairs: int | None = None,
) -> StageResult:
    """Run one stage with short trainings, what it reports on the test set being measured on the calibration set.

    Args:
        plan: target, data and seed.
        stage: with the configuration of a full run.
        inputs: by input name.
        workdir: kept by the caller, so that an interrupted training goes on.
        progress: of this stage.
        factor: length of the trainings over that of a full run's; 0: one step each.
        pairs: how many pairs of each data set it sees; None: all.

    Raises:
        UsageError, StageFailed: what the stage raises.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    whole = {role: plan.data["calibrate" if role == "test" else role] for role in stage.spec.data}
    data: dict[str, PairSource] = whole if pairs is None else {role: Some(source, pairs) for role, source in whole.items()}
    view = TargetView(plan.target, stage.spec.reads_target)
    with progress as shown:
        return stage.spec.run(StageContext(shortened(stage.config, factor), inputs, workdir, view, data, plan.seed, shown))


def shortened(config: BaseModel, factor: float) -> BaseModel:
    """A copy of a stage's configuration with every training in it ``factor`` times as long (at least one step), and lenient."""
    update: dict[str, Any] = {k: v for k, v in LENIENT.items() if k in type(config).model_fields}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, TrainConfig):
            update[name] = value.model_copy(update={"steps": max(1, round(value.steps * factor))})
        elif isinstance(value, BaseModel):
            update[name] = shortened(value, factor)
    return config.model_copy(update=update)


def artifact_of(output: Output) -> Artifact:
    """An output as the input of a next stage."""
    return Artifact(output.kind, output.path, hash_path(output.path), size_of(output.path), dict(output.facts))
