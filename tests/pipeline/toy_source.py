"""A stage for tests: writes a file whose text is decided by its configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.contract import Better, Evidence, Kind, Measurement, Output, StageContext, StageResult, StageSpec


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    text: str = "hello"
    quality: float = Field(default=30.0, description="the PSNR it claims")
    weights: Path | None = None
    fail: str = ""


def run(ctx: StageContext) -> StageResult:
    if ctx.config.fail:
        raise ValueError(ctx.config.fail)
    path = ctx.workdir / "out.txt"
    path.write_text(ctx.config.text + str(ctx.seed))
    ctx.progress.log("wrote it")
    psnr = Measurement("psnr", ctx.config.quality, "dB", Better.HIGHER, 2, Evidence.HOST, {}, (ctx.config.quality, ctx.config.quality))
    return StageResult({"model": Output(Kind.CHECKPOINT, path, {"len": 5})}, [psnr], notes=["a note"])


STAGE = StageSpec(run=run, config=Config, consumes={}, produces={"model": Kind.CHECKPOINT})
