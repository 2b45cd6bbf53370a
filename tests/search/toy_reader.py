"""A stage of a user's own that reads what pruning says of the widths."""

from __future__ import annotations

from pydantic import BaseModel

from pipeline.contract import Kind, StageContext, StageResult, StageSpec


class ToyConfig(BaseModel):
    pass


def run(ctx: StageContext) -> StageResult:
    return StageResult({}, notes=(ctx.inputs["widths"].path.read_text(),))


STAGE = StageSpec(run=run, config=ToyConfig, consumes={"widths": Kind.REPORT}, produces={})
