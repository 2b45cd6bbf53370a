"""The stage's settings. Importing this does not load torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.config import CacheMode, LossWeights, RecoverConfig, TrainConfig

ImportanceName = Literal["l1", "taylor", "random"]
"""The rankings in ``prune.importance``."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PruneTrain(TrainConfig):
    """The recovery after pruning; the defaults take about three quarters of a minute on two CPU cores."""

    steps: int = Field(default=300, ge=1, description="optimizer steps, over all rounds of pruning")
    crop: int = Field(default=96, ge=16, description="side of the square training crops in pixels")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")


class Recovery(RecoverConfig):
    """How the pruned network is trained."""

    train: PruneTrain = Field(default=PruneTrain(), description="the training")
    loss_weights: LossWeights = Field(default=LossWeights(feature=0), description="how much each part of the loss counts")
    teacher_cache: CacheMode = Field(
        default="auto",
        description="on: the teacher sees each whole image once; off: every crop; auto: on where that is possible and less work",
    )
    freeze_norm: bool = Field(
        default=True,
        description="keep batch normalisation's statistics while training; false: live ones, of small crops, which shift dark areas",
    )


class Budget(_Model):
    """What pruning is to reach; exactly one of these."""

    latency_ms: float | None = Field(default=None, gt=0, description="latency of one of the target's frames in ms")
    macs: float | None = Field(default=None, gt=0, description="multiply-accumulates at 3x256x256 in G")
    speedup: float | None = Field(default=None, gt=1, description="how many times as fast as the input")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give exactly one of latency_ms, macs and speedup")
        return self

    @property
    def kind(self) -> Literal["latency_ms", "macs", "speedup"]:
        """Which of them is given."""
        return "macs" if self.macs is not None else "speedup" if self.speedup is not None else "latency_ms"


class SensitivityConfig(_Model):
    """How the groups' exchange table is measured."""

    images: int = Field(default=4, ge=1, description="training images that PSNR is measured on; the calibration set is left to judge")
    side: int = Field(default=128, ge=32, description="side in pixels of the square cut from the middle of each image")
    levels: int | None = Field(
        default=None,
        ge=1,
        le=8,
        description="widths tried per group; between and beyond them dB and ms are interpolated; "
        "null: 1 where the target is estimated, 2 where this host is timed, whose kernels gain in steps",
    )
    share: float = Field(default=0.25, gt=0, lt=1, description="share of a group's channels removed per level, before rounding")
    seconds: float = Field(default=0.15, gt=0, description="least time of a latency measurement per group, where this host is timed")


class PruneConfig(_Model):
    """How much is pruned, and what it must be worth."""

    ratio: float = Field(default=0.3, gt=0, lt=1, description="share of the channels to remove from each layer, before rounding")
    to: Budget | None = Field(
        default=None, description="budget to reach instead of a ratio: {speedup: 1.5}, {latency_ms: 20} or {macs: 0.5}"
    )
    allocate: Literal["uniform", "sensitivity"] | None = Field(
        default=None,
        description="who loses channels: all alike, or where a millisecond costs least dB; null: uniform for a ratio, else sensitivity",
    )
    on: Literal["target", "host"] = Field(
        default="target", description="whose milliseconds count: the target's (estimated where it is not this machine), or this host's"
    )
    max_ratio: float = Field(default=0.6, gt=0, lt=1, description="largest share removed from one layer by sensitivity")
    importance: ImportanceName = Field(default="l1", description="which channels of a layer go first")
    rounds: int = Field(default=1, ge=1, le=20, description="prune in this many steps, with a share of the recovery after each")
    recentre: int = Field(default=16, ge=0, description="training images on which the layers' means are put back after a cut; 0: not done")
    sensitivity: SensitivityConfig = Field(default=SensitivityConfig(), description="how each group's price is measured")
    recover: Recovery = Field(default=Recovery(), description="training after pruning")
    min_speedup: float = Field(default=1.05, ge=0, description="least speed-up over the input on this host, fp32; below it less is pruned")
    max_drop: float = Field(default=0.3, ge=0, description="largest loss of PSNR on the calibration set in dB; above it less is pruned")
    max_drop_worst: float = Field(default=0.5, ge=0, description="the same for the calibration image that loses most")
    retreat: tuple[float, ...] = Field(default=(0.66, 0.33), description="factors on the ratio, or on what is saved, that are tried next")
    tile: int = Field(default=256, ge=32, description="side in pixels of the square image that latency is measured on")
    seconds: float = Field(default=1.5, gt=0, description="least time of a latency measurement per network")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.to is not None and "ratio" in self.model_fields_set:
            raise ValueError("give either ratio or to")
        if self.to is not None and self.allocate == "uniform":
            raise ValueError("a budget (to) is shared out by sensitivity; uniform takes a ratio")
        if self.rounds > self.recover.train.steps:
            raise ValueError(f"rounds {self.rounds} cannot share recover.train.steps {self.recover.train.steps}")
        return self

    @property
    def by_sensitivity(self) -> bool:
        """Whether the groups lose channels by price."""
        return self.to is not None or self.allocate == "sensitivity"
