"""Quantize to symmetric int8: calibrate, train with fake quantization, hand on the better of both as Q/DQ ONNX."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from train.config import LossName, LossWeights, Precision, RecoverConfig, TrainConfig


class QatTrain(TrainConfig):
    """Quantization-aware training; the defaults take about half a minute on two CPU cores."""

    steps: int = Field(default=100, ge=1, description="optimizer steps")
    crop: int = Field(default=96, ge=16, description="side of the square training crops in pixels")
    lr: float = Field(default=1e-4, gt=0, description="peak learning rate of the weights")
    amp: Precision = Field(default="32-true", description="bf16 rounds more coarsely than the integers that are trained for")


class Qat(RecoverConfig):
    """How the fake-quantized network is trained."""

    train: QatTrain = Field(default=QatTrain(), description="the training")
    loss: LossName = Field(default="psnr", description="distance between images; l1 and its kin mislead weights on a grid")
    loss_weights: LossWeights = Field(default=LossWeights(feature=0), description="how much each part of the loss counts")


class QuantizeConfig(BaseModel):
    """How int8 is reached, and what it may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(default=16, ge=1, description="pairs of the calibration set that are used, to calibrate and to choose")
    qat: bool = Field(default=True, description="train with fake quantization; false: calibration alone")
    recover: Qat = Field(default=Qat(), description="the training")
    step_lr: float = Field(default=5.0, gt=0, description="learning rate of the activations' step sizes over that of the weights")
    guide: Literal["teacher", "input"] = Field(
        default="teacher", description="whose output guides the training; input: the float network itself, as also when no teacher is given"
    )
    control: bool = Field(
        default=False, description="also train a float network equally long, to tell what int8 costs from what training gives"
    )
    margin: float = Field(default=0.005, ge=0, description="dB by which training must beat calibration on the calibration set to be chosen")
    max_drop: float = Field(
        default=0.15, ge=0, description="largest loss of PSNR on the calibration set in dB; above it tensors return to float"
    )
    sensitive: int = Field(default=5, ge=0, description="how many of the most sensitive tensors return to float before all do")
    min_speedup: float = Field(
        default=1.0, ge=0, description="least speed-up over fp32 where the target is this host; below it all returns to float"
    )
    shown: int = Field(
        default=24, ge=1, description="test pairs on which all candidates are reported, beside the whole set for the one chosen"
    )
    tile: int = Field(default=256, ge=32, description="side in pixels of the square image that latency is measured on")
    seconds: float = Field(default=1.5, gt=0, description="least time of a latency measurement per network")


def run(ctx: StageContext) -> StageResult:
    """Quantize ``model``; train on ``train``, calibrate and choose on ``calibrate``, report on ``test``."""
    from quantize.outcome import quantize

    return quantize(ctx)


STAGE = StageSpec(
    run=run,
    config=QuantizeConfig,
    consumes={"model": Kind.CHECKPOINT, "teacher?": Kind.CHECKPOINT},
    produces={"model": Kind.ONNX, "samples": Kind.SAMPLES},
    data=("train", "calibrate", "test"),
    reads_target=("opset", "is_host"),
    toolchain=("torch", "lightning", "onnx", "onnxruntime", "onnxslim", "numpy", "scikit-image"),
    code=("models", "compile.onnxruntime"),  # found by name
    measures="host",
)
