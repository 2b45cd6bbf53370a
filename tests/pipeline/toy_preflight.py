"""A stage for tests that says something before it runs: what its configuration tells it to."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pipeline.contract import Problem, StageContext, StageResult, StageSpec
from pipeline.errors import ToolchainMissing, UsageError
from pipeline.plan import Plan, PlannedStage


class ToyConfig(BaseModel):
    """What it says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    says: str = "nothing"
    crop: int = 16


def run(ctx: StageContext) -> StageResult:
    """Is never called."""
    raise NotImplementedError(ctx.workdir)


def speak(stage: PlannedStage, plan: Plan) -> list[Problem]:
    """Warn, refuse or keep quiet."""
    says = stage.config.model_dump()["says"]
    if says == "usage":
        raise UsageError("toy", "has a wrong value", "give another")
    if says == "missing":
        raise ToolchainMissing("toy", "its compiler is not there", "apt-get install toy")
    return [Problem(f"stage {stage.id}", f"{says} for {plan.target.name}")] if says == "warning" else []


STAGE = StageSpec(
    run=run, config=ToyConfig, consumes={}, produces={}, data=("train", "calibrate"), preflight="tests.pipeline.toy_preflight:speak"
)
