"""Prune channels where a millisecond costs least, recover with the teacher, and keep the result only when it is faster and still good."""

from __future__ import annotations

from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from prune.config import PruneConfig


def run(ctx: StageContext) -> StageResult:
    """Prune ``model``; recover on ``train``, judge on ``calibrate``, report on ``test``."""
    from prune.outcome import prune

    return prune(ctx)


STAGE = StageSpec(
    run=run,
    config=PruneConfig,
    consumes={"model": Kind.CHECKPOINT, "teacher?": Kind.CHECKPOINT},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES, "widths": Kind.REPORT, "sensitivity": Kind.REPORT},
    data=("train", "calibrate", "test"),
    reads_target=("channel_multiple", "is_host", "frame", "rates", "backends"),
    toolchain=("torch", "lightning", "torch-pruning", "onnx", "onnxruntime", "onnxslim", "numpy", "scikit-image"),
    code=("models", "compile.onnxruntime"),  # found by name
    measures="host",
)
