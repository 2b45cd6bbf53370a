"""What the stage's configuration holds, its defaults among it. Importing this does not load torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.config import CacheMode, LossName, LossWeights, Precision, RecoverConfig, TrainConfig

Contender = Literal["ptq", "qat", "clamp-ptq"]
Calibration = Literal["percentile", "mse", "median", "minmax"]


class QatTrain(TrainConfig):
    """The training of a contender; the defaults take about half a minute on two CPU cores."""

    steps: int = Field(default=100, ge=1, description="optimizer steps of each training")
    crop: int = Field(default=96, ge=16, description="side of the square training crops in pixels")
    lr: float = Field(default=3e-4, gt=0, description="peak learning rate of the weights")
    amp: Precision = Field(default="32-true", description="bf16 rounds more coarsely than the integers that are trained for")


class Qat(RecoverConfig):
    """How contenders are trained, all alike."""

    train: QatTrain = Field(default=QatTrain(), description="the training")
    loss: LossName = Field(default="psnr", description="distance between images; l1 and its kin mislead weights on a grid")
    loss_weights: LossWeights = Field(default=LossWeights(feature=0), description="how much each part of the loss counts")
    teacher_cache: CacheMode = Field(
        default="auto",
        description="on: the teacher sees each whole image once; off: every crop; auto: on where that is possible and less work",
    )


class QuantizeConfig(BaseModel):
    """How int8 is reached, and what it may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: int = Field(
        default=24, ge=1, description="pairs of the calibration set that are used: by scene, half of them calibrate and the others judge"
    )
    contenders: tuple[Contender, ...] = Field(
        default=("ptq", "qat"),
        description="ptq: calibration alone, always there; qat: training with fake quantization; "
        "clamp-ptq: float training with learned clamps, whose ranges calibrate",
    )
    calibration: tuple[Calibration, ...] = Field(
        default=("percentile", "mse", "median"),
        min_length=1,
        description="how ranges are found; each is a contender: percentile and mse over all pictures together, median of each "
        "picture's percentile (which one picture that drives the network wild cannot spoil), minmax",
    )
    equalise: bool = Field(
        default=True, description="also try channels of equal range, along residual streams too, with the best calibration"
    )
    correct_bias: bool = Field(default=True, description="also try bias correction with the best calibration")
    recover: Qat = Field(default=Qat(), description="the training of qat, clamp-ptq and the float control")
    unsigned: bool | Literal["auto"] = Field(
        default="auto",
        description="255 steps instead of 127 for tensors that cannot be negative (the image, what is behind a ReLU); auto: unless the "
        "target runs int8 on a GPU, where TensorRT takes zero points of 0 alone, or is this machine and an x86 without VNNI",
    )
    step_lr: float = Field(default=5.0, gt=0, description="learning rate of the activations' step sizes over that of the weights")
    batchnorm: Literal["folded", "live"] = Field(
        default="folded", description="live: qat trains batch normalisation along, folded into rounded weights; no better where measured"
    )
    guide: Literal["teacher", "input"] = Field(
        default="teacher", description="whose output guides the training; input: the float network itself, as also when no teacher is given"
    )
    seeds: int = Field(default=1, ge=1, le=20, description="trainings of each trained contender, with different crops; the best counts")
    budget_steps: int | None = Field(
        default=None, ge=1, description="most optimizer steps over all trainings together, shared equally; null: recover.train.steps each"
    )
    control: bool = Field(
        default=False, description="also train a float network equally long, to tell what int8 costs from what training gives"
    )
    margin: float = Field(
        default=0.005,
        ge=0,
        description="contenders that differ by no more dB than this, or than the standard error of their paired difference, are a tie, "
        "which the better worst image decides",
    )
    enough: float = Field(
        default=0.0, ge=0, description="calibration that costs at most this many dB is handed on without any training; 0: always train"
    )
    max_drop: float = Field(
        default=0.15, ge=0, description="largest loss of PSNR on the held-out pictures in dB; above it tensors return to float"
    )
    max_drop_worst: float = Field(default=0.4, ge=0, description="the same for the picture that loses most")
    mixed: bool = Field(default=True, description="return the cheapest tensors that suffice to float, before all do")
    min_speedup: float = Field(
        default=1.0, ge=0, description="least speed-up over fp32 where the target is this host; below it all returns to float"
    )
    shown: int = Field(
        default=24, ge=1, description="test pairs on which all candidates are reported, beside the whole set for the one chosen"
    )
    tile: int = Field(default=256, ge=32, description="side in pixels of the square image that latency is measured on")
    seconds: float = Field(default=1.5, gt=0, description="least time of a latency measurement per network")

    @model_validator(mode="after")
    def _fits(self) -> QuantizeConfig:
        if "ptq" not in self.contenders:
            raise ValueError("contenders must name ptq: training starts from a calibration and is held against it")
        for name in ("contenders", "calibration"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} names one of them twice: {', '.join(getattr(self, name))}")
        return self
