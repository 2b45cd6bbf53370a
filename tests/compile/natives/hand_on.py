"""A stage that hands on a model folder, as quantize does."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.contract import Kind, Output, StageContext, StageResult, StageSpec


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path


def run(ctx: StageContext) -> StageResult:
    return StageResult({"model": Output(Kind.ONNX, Path(shutil.copytree(ctx.config.folder, ctx.workdir / "model")))})


STAGE = StageSpec(run=run, config=Config, consumes={}, produces={"model": Kind.ONNX})
