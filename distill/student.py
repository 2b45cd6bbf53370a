"""Distil one or several teachers into a student."""

from __future__ import annotations

from distill.config import own_code
from distill.settings import DistillConfig
from pipeline.contract import Kind, StageContext, StageResult, StageSpec


def run(ctx: StageContext) -> StageResult:
    """Distil on ``train``, or load; measure on ``test``."""
    from distill.measure import hand_on
    from distill.network import distilled, loaded
    from distill.teachers import teacher_of

    if ctx.config.weights:
        return hand_on(ctx, loaded(ctx.config))
    return hand_on(ctx, distilled(ctx, teacher_of(ctx), "distill"))


STAGE = StageSpec(
    run=run,
    config=DistillConfig,
    consumes={"teacher": Kind.CHECKPOINT, "teacher2?": Kind.CHECKPOINT, "teacher3?": Kind.CHECKPOINT},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES},
    data=("train", "test"),
    toolchain=("torch", "lightning", "numpy", "scikit-image"),
    code=("models",),  # the architecture is found by name
    code_of=own_code,
    ranks="all",
    preflight="distill.preflight:student",
)
