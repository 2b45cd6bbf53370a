"""Distil one or several teachers into a student."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat, field_validator

from distill.config import NetworkConfig, own_code
from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from train.config import CacheMode, LossWeights, RecoverConfig, TrainConfig
from train.config_losses import Adversarial


class StudentTrain(TrainConfig):
    """The student's training; the defaults take about five minutes on two CPU cores."""

    steps: int = Field(default=4000, ge=1, description="optimizer steps")


class StudentAdversarial(Adversarial):
    """A critic that the student learns to please, beside what the teacher says or after it."""

    weight: float = Field(default=0.001, gt=0, allow_inf_nan=False, description="factor of the adversarial term in the student's loss")
    train: TrainConfig | None = Field(default=None, description="a training of its own, after the distillation; null: during it")


class DistillConfig(NetworkConfig, RecoverConfig):
    """The student and how it is trained: with the ground truth, and with the teacher's output and features."""

    arch: str = Field(default="student", description="folder in models/, or package.module:Class of your own")
    train: StudentTrain = Field(default=StudentTrain(), description="the training; not used with 'weights'")
    loss_weights: LossWeights = Field(default=LossWeights(response=1.0), description="how much each part of the loss counts")
    teacher_cache: CacheMode = Field(
        default="auto",
        description="on: the teacher sees each whole image once; off: every crop; auto: on where that is possible and less work",
    )
    teacher_weights: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="how much the output of 'teacher', 'teacher2' and 'teacher3' counts in their mean; empty: all alike"
    )
    adversarial: StudentAdversarial | None = Field(default=None, description="a critic that is trained against the student; null: none")

    @field_validator("teacher_weights")
    @classmethod
    def _some_teacher(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if weights and not any(weights):
            raise ValueError("no teacher counts; set loss_weights.response to 0 instead")
        return weights


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
