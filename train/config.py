"""Settings of a training. Importing this does not load torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

Precision = Literal["auto", "32-true", "bf16-mixed"]
LossName = Literal["l1", "charbonnier", "mse", "psnr", "fft"]
"""The losses in ``train.losses``."""


class TrainConfig(BaseModel):
    """How a network is trained. The defaults are those of a few minutes on two CPU cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=1000, ge=1, description="optimizer steps")
    batch: int = Field(default=8, ge=1, description="crops per optimizer step, over all processes and accumulated parts")
    crop: int = Field(default=64, ge=16, description="side of the square training crops in pixels")
    lr: float = Field(default=2e-3, gt=0, description="peak learning rate")
    min_lr: float = Field(default=1e-6, ge=0, description="learning rate at the end of the cosine")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps in which lr rises linearly to its peak")
    weight_decay: float = Field(default=1e-4, ge=0, description="AdamW's weight decay; biases, norms and scales have none")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="AdamW's betas")
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    accumulate: int = Field(default=1, ge=1, description="parts into which a batch is cut to save memory")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of the weights that is kept; 0 keeps the weights")
    amp: Precision = Field(default="auto", description="auto: bf16-mixed on a GPU that has it, else 32-true")
    channels_last: bool = Field(default=True, description="NHWC memory layout: faster for convolutions on CPUs and GPUs")
    deterministic: bool = Field(default=True, description="ask torch for deterministic algorithms; false is faster on GPUs")
    devices: PositiveInt | Literal["auto"] = Field(default="auto", description="processes of this machine; auto: all GPUs, or one on a CPU")
    workers: NonNegativeInt | Literal["auto"] = Field(default="auto", description="data processes; 0 crops in one background thread")
    checkpoint_seconds: float = Field(default=30.0, ge=0, description="seconds between checkpoints")
    checkpoint_steps: int = Field(default=0, ge=0, description="steps between checkpoints, besides; 0: by time alone")
    log_steps: int = Field(default=20, ge=1, description="steps between TensorBoard points")
    seed: int | None = Field(default=None, ge=0, description="seed of this training; null: the run's seed")

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} cannot be cut into accumulate = {self.accumulate} equal parts")
        return self

    def seeded(self, seed: int) -> TrainConfig:
        """The same configuration with ``seed`` where it names none."""
        return self if self.seed is not None else self.model_copy(update={"seed": seed})


class LossWeights(BaseModel):
    """How much each part of the loss counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gt: float = Field(default=1.0, ge=0, description="distance to the sharp image")
    response: float = Field(default=0.5, ge=0, description="distance to the teacher's output")
    feature: float = Field(default=2e-4, ge=0, description="distance to the teacher's features (1: the student's say nothing)")
    fft: float = Field(default=0.0, ge=0, description="distance to the sharp image in the frequency domain")


class RecoverConfig(BaseModel):
    """Settings of a training with a teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: TrainConfig = Field(default=TrainConfig(), description="the training")
    loss: LossName = Field(default="mse", description="distance between images")
    loss_weights: LossWeights = Field(default=LossWeights(), description="how much each part of the loss counts")
