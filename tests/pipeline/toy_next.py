"""A second stage for tests: consumes the first one's output and reads one target field."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from pipeline.contract import Better, Evidence, Kind, Measurement, Output, StageContext, StageResult, StageSpec


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    drop: float = 0.1
    forbidden: bool = False


def run(ctx: StageContext) -> StageResult:
    if ctx.config.forbidden:
        ctx.target.opset  # noqa: B018 - not declared, must raise
    before = ctx.inputs["model"].path.read_text()
    path = ctx.workdir / "next.txt"
    path.write_text(f"{before} {ctx.target.channel_multiple}")
    values = (30.0 - ctx.config.drop, 30.0 - 2 * ctx.config.drop)
    psnr = Measurement("psnr", sum(values) / 2, "dB", Better.HIGHER, 2, Evidence.HOST, {}, values)
    return StageResult({"model": Output(Kind.CHECKPOINT, path)}, [psnr])


STAGE = StageSpec(
    run=run, config=Config, consumes={"model": Kind.CHECKPOINT}, produces={"model": Kind.CHECKPOINT}, reads_target=("channel_multiple",)
)
