"""Quantize to int8: calibrate, train with fake quantization or with clamps, hand on the best as Q/DQ ONNX."""

from __future__ import annotations

from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from quantize.settings import QuantizeConfig


def run(ctx: StageContext) -> StageResult:
    """Quantize ``model``; train on ``train``, calibrate and choose on parts of ``calibrate``, report on ``test``."""
    from quantize.outcome import quantize

    return quantize(ctx)


STAGE = StageSpec(
    run=run,
    config=QuantizeConfig,
    consumes={"model": Kind.CHECKPOINT, "teacher?": Kind.CHECKPOINT},
    produces={"model": Kind.ONNX, "samples": Kind.SAMPLES, "exchange": Kind.REPORT},
    data=("train", "calibrate", "test"),
    reads_target=("name", "opset", "is_host", "rates", "backends", "frame"),
    toolchain=("torch", "lightning", "onnx", "onnxruntime", "onnxslim", "numpy", "scikit-image"),
    code=("models", "compile.onnxruntime"),  # found by name
    measures="host",
)
