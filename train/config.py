"""Settings of a training. Importing this does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator

from data.crops import Augment

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
LossName = Literal["l1", "charbonnier", "mse", "psnr", "fft"]
"""The losses in ``train.losses``."""
CacheMode = Literal["auto", "on", "off"]
"""Whether a teacher's answers are computed once per image (``train.teacher_cache``)."""

_Beta = Annotated[float, Field(ge=0, lt=1)]
_SCHEDULE_OF = {"step_every": "step", "step_factor": "step", "hold": "linear", "power": "poly"}
"""The schedule that an option belongs to."""


class Patch(BaseModel):
    """Crops of another size from some step on."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    from_: float = Field(alias="from", ge=0, lt=1, description="share of the steps after which it begins")
    crop: int = Field(ge=16, description="side of the square training crops in pixels")
    batch: int | None = Field(default=None, ge=1, description="crops per optimizer step; null: the training's batch")


class TrainConfig(BaseModel):
    """How a network is trained. The defaults are those of a few minutes on two CPU cores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=1000, ge=1, description="optimizer steps")
    batch: int = Field(default=8, ge=1, description="crops per optimizer step, over all processes and accumulated parts")
    crop: int = Field(default=64, ge=16, description="side of the square training crops in pixels")
    patches: tuple[Patch, ...] = Field(
        default=(),
        description="crops that follow one another, e.g. [{from: 0, crop: 128, batch: 16}, {from: 0.5, crop: 192, batch: 8}]",
    )
    augment: Augment = Field(default=Augment(), description="how the crops are changed at random")
    optimizer: Literal["adamw", "adam"] = Field(default="adamw", description="adam: weight_decay is 0 unless given, and then an L2 penalty")
    lr: float = Field(default=2e-3, gt=0, description="peak learning rate")
    min_lr: float = Field(default=1e-6, ge=0, description="learning rate that a schedule falls to; 'constant' does not fall")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps in which lr rises linearly to its peak")
    schedule: Literal["cosine", "step", "linear", "constant", "poly"] = Field(default="cosine", description="how lr falls after warm-up")
    step_every: float = Field(default=0.25, gt=0, le=1, description="schedule step: share of the steps between two falls of lr")
    step_factor: float = Field(default=0.5, gt=0, le=1, description="schedule step: what lr is multiplied by, down to min_lr")
    hold: float = Field(default=0.0, ge=0, lt=1, description="schedule linear: share of the steps before lr begins to fall")
    power: float = Field(default=0.3, gt=0, description="schedule poly: lr falls as (1 - share of the steps done) to this power")
    weight_decay: float = Field(default=1e-4, ge=0, description="weight decay, of the weights that 'decay' says")
    decay: Literal["matrices", "all"] = Field(
        default="matrices", description="what weight_decay is for; matrices: not for biases, norms and scales"
    )
    betas: tuple[_Beta, _Beta] = Field(default=(0.9, 0.95), description="the optimizer's betas")
    clip: float = Field(default=1.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    clip_only: str | None = Field(default=None, min_length=1, description="weights that clip is for, e.g. '*lstm*'; null: all")
    accumulate: int = Field(default=1, ge=1, description="parts into which a batch is cut to save memory")
    ema: float = Field(default=0.0, ge=0, lt=1, description="decay of the moving average of the weights that is kept; 0 keeps the weights")
    amp: Precision = Field(default="auto", description="auto: bf16-mixed on a GPU that has it, else 32-true; 16-mixed: GPUs only")
    channels_last: bool = Field(default=True, description="NHWC memory layout: faster for convolutions on CPUs and GPUs")
    compile: bool = Field(
        default=False, description="torch.compile the step: faster after a minute or two of compiling, which a short training does not earn"
    )
    deterministic: bool = Field(default=True, description="ask torch for deterministic algorithms; false is faster on GPUs")
    devices: PositiveInt | Literal["auto"] = Field(default="auto", description="processes of this machine; auto: all GPUs, or one on a CPU")
    workers: NonNegativeInt | Literal["auto"] = Field(default="auto", description="data processes; 0 crops in one background thread")
    checkpoint_seconds: float = Field(default=30.0, ge=0, description="seconds between checkpoints")
    checkpoint_steps: int = Field(default=0, ge=0, description="steps between checkpoints, besides; 0: by time alone")
    log_steps: int = Field(default=20, ge=1, description="steps between TensorBoard points")
    seed: int | None = Field(default=None, ge=0, description="seed of this training; null: the run's seed")

    @model_validator(mode="before")
    @classmethod
    def _adam_does_not_decay(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("optimizer") == "adam":
            return {"weight_decay": 0.0, **values}
        return values

    @field_validator("patches")
    @classmethod
    def _in_order(cls, patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
        begins = [p.from_ for p in patches]
        if begins and begins[0] != 0:
            raise ValueError(f"the first patch begins at {begins[0]:g}, it must be from: 0")
        if any(later <= earlier for earlier, later in pairwise(begins)):
            raise ValueError(f"each patch must begin after the one before, not {', '.join(f'{b:g}' for b in begins)}")
        return patches

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.min_lr > self.lr and self.schedule != "constant":
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}")
        for batch in (self.batch, *(p.batch for p in self.patches if p.batch)):
            if batch % self.accumulate:
                raise ValueError(f"batch {batch} cannot be cut into accumulate = {self.accumulate} equal parts")
        for name, schedule in _SCHEDULE_OF.items():
            if schedule != self.schedule and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for schedule '{schedule}', and schedule is '{self.schedule}'")
        if self.clip_only is not None and not self.clip:
            raise ValueError(f"clip_only '{self.clip_only}' has no effect with clip 0")
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
    response_fft: float = Field(default=0.0, ge=0, description="distance to the teacher's output in the frequency domain")
    attention: float = Field(default=0.0, ge=0, description="distance between where the teacher's and the student's features are strong")
    softened: float = Field(default=0.0, ge=0, description="divergence of each channel's distribution over the image, see 'temperature'")

    def of_features(self) -> tuple[str, ...]:
        """The parts that compare features, where they count."""
        return tuple(name for name in ("feature", "attention", "softened") if getattr(self, name))


class RecoverConfig(BaseModel):
    """Settings of a training with a teacher."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: TrainConfig = Field(default=TrainConfig(), description="the training")
    loss: LossName = Field(default="mse", description="distance between images")
    loss_weights: LossWeights = Field(default=LossWeights(), description="how much each part of the loss counts")
    feature_scales: tuple[NonNegativeFloat, ...] = Field(
        default=(), description="how much each scale of the network's features counts, fine first, bottleneck last; empty: all alike"
    )
    temperature: float = Field(default=4.0, gt=0, allow_inf_nan=False, description="of 'softened': features are divided by it")
    teacher_cache: CacheMode = Field(
        default="off",
        description="on: the teacher sees each whole image once; off: every crop; auto: on where that is possible and less work",
    )
    cache_gb: float = Field(
        default=20.0, gt=0, allow_inf_nan=False, description="largest size in GB of all teachers' answers that the workspace keeps"
    )

    @field_validator("feature_scales")
    @classmethod
    def _some_scale(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if scales and not any(scales):
            raise ValueError("no scale counts; set loss_weights.feature to 0 instead")
        return scales
