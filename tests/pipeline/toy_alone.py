"""A stage for tests that trains in the first process alone, whoever else is there."""

from __future__ import annotations

import os

from pydantic import BaseModel, ConfigDict

from pipeline.contract import Kind, Output, StageContext, StageResult, StageSpec


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def run(ctx: StageContext) -> StageResult:
    import torch

    from tests.train.toys import toy_config, train_toy, weights_of

    network, _ = train_toy(ctx.workdir / "training", toy_config(devices=1))
    path = ctx.workdir / "weights.pt"
    torch.save(weights_of(network), path)
    seen = sorted(name for name in os.environ if name in ("RANK", "WORLD_SIZE") or name.startswith("TORCHELASTIC"))
    return StageResult({"model": Output(Kind.CHECKPOINT, path)}, notes=[f"sees {seen}"])


STAGE = StageSpec(run=run, config=Config, consumes={"model": Kind.CHECKPOINT}, produces={"model": Kind.CHECKPOINT}, toolchain=("torch",))
