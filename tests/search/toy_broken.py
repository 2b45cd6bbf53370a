"""A stage of a user's own with a bug."""

from __future__ import annotations

from pydantic import BaseModel

from pipeline.contract import Kind, StageContext, StageResult, StageSpec


class ToyConfig(BaseModel):
    pass


def run(ctx: StageContext) -> StageResult:
    raise RuntimeError("a bug of the user's own\nsecond line")


STAGE = StageSpec(run=run, config=ToyConfig, consumes={"model": Kind.CHECKPOINT}, produces={})
