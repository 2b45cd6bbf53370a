"""Train the teacher, or load it from a checkpoint of the pipeline's or from published weights."""

from __future__ import annotations

from distill.config import own_code
from distill.settings import TeachConfig
from pipeline.contract import Kind, StageContext, StageResult, StageSpec


def run(ctx: StageContext) -> StageResult:
    """Train on ``train``, or load; measure on ``test``."""
    from distill.measure import hand_on
    from distill.network import loaded, trained, trained_by_terms

    if ctx.config.weights:
        return hand_on(ctx, loaded(ctx.config))
    settings = ctx.config.settings()
    return hand_on(ctx, trained(ctx, settings, "teach") if settings is not None else trained_by_terms(ctx, "teach"))


STAGE = StageSpec(
    run=run,
    config=TeachConfig,
    consumes={},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES},
    data=("train", "test"),
    toolchain=("torch", "lightning", "numpy", "scikit-image"),
    code=("models",),  # the architecture is found by name
    code_of=own_code,
    ranks="all",
)
