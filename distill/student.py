"""Distil the teacher into a student."""

from __future__ import annotations

from pydantic import Field

from distill.config import NetworkConfig
from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from train.config import LossWeights, RecoverConfig, TrainConfig


class StudentTrain(TrainConfig):
    """The student's training; the defaults take about five minutes on two CPU cores."""

    steps: int = Field(default=4000, ge=1, description="optimizer steps")


class DistillConfig(NetworkConfig, RecoverConfig):
    """The student and how it is trained: with the ground truth, and with the teacher's output and features."""

    arch: str = Field(default="student", description="folder in models/, or package.module:Class of your own")
    train: StudentTrain = Field(default=StudentTrain(), description="the training; not used with 'weights'")
    loss_weights: LossWeights = Field(default=LossWeights(response=1.0), description="how much each part of the loss counts")


def run(ctx: StageContext) -> StageResult:
    """Distil on ``train``, or load; measure on ``test``."""
    from distill.measure import hand_on
    from distill.network import loaded, trained
    from models import checkpoint

    if ctx.config.weights:
        return hand_on(ctx, loaded(ctx.config))
    teacher = checkpoint.load(ctx.inputs["teacher"].path).module
    return hand_on(ctx, trained(ctx, teacher, ctx.config, "distill"))


STAGE = StageSpec(
    run=run,
    config=DistillConfig,
    consumes={"teacher": Kind.CHECKPOINT},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES},
    data=("train", "test"),
    toolchain=("torch", "lightning", "numpy", "scikit-image"),
    code=("models",),  # the architecture is found by name
)
