"""Prune channels by L1 magnitude, recover with the teacher, and keep the result only when it is faster and still good."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from train.config import LossWeights, RecoverConfig, TrainConfig


class PruneTrain(TrainConfig):
    """The recovery after pruning; the defaults take about three quarters of a minute on two CPU cores."""

    steps: int = Field(default=300, ge=1, description="optimizer steps, over all rounds of pruning")
    crop: int = Field(default=96, ge=16, description="side of the square training crops in pixels")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")


class Recovery(RecoverConfig):
    """How the pruned network is trained."""

    train: PruneTrain = Field(default=PruneTrain(), description="the training")
    loss_weights: LossWeights = Field(default=LossWeights(feature=0), description="how much each part of the loss counts")


class PruneConfig(BaseModel):
    """How much is pruned, and what it must be worth."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ratio: float = Field(default=0.3, gt=0, lt=1, description="share of the channels to remove from each layer, before rounding")
    max_ratio: float = Field(default=0.6, gt=0, le=1, description="largest share removed from one layer when global_ranking moves it")
    global_ranking: bool = Field(default=False, description="rank channels over the whole network instead of layer by layer")
    rounds: int = Field(default=1, ge=1, le=20, description="prune in this many steps, with a share of the recovery after each")
    recover: Recovery = Field(default=Recovery(), description="training after pruning")
    min_speedup: float = Field(default=1.05, ge=0, description="least speed-up over the input on this host, fp32; below it less is pruned")
    max_drop: float = Field(default=0.3, ge=0, description="largest loss of PSNR on the calibration set in dB; above it less is pruned")
    retreat: tuple[float, ...] = Field(default=(0.66, 0.33), description="factors on the ratio that are tried next, in this order")
    tile: int = Field(default=256, ge=32, description="side in pixels of the square image that latency is measured on")
    seconds: float = Field(default=1.5, gt=0, description="least time of a latency measurement per network")


def run(ctx: StageContext) -> StageResult:
    """Prune ``model``; recover on ``train``, judge on ``calibrate``, report on ``test``."""
    from prune.outcome import prune

    return prune(ctx)


STAGE = StageSpec(
    run=run,
    config=PruneConfig,
    consumes={"model": Kind.CHECKPOINT, "teacher?": Kind.CHECKPOINT},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES, "widths": Kind.REPORT},
    data=("train", "calibrate", "test"),
    reads_target=("channel_multiple",),
    toolchain=("torch", "lightning", "torch-pruning", "onnx", "onnxruntime", "numpy", "scikit-image"),
    code=("models", "compile.onnxruntime"),  # found by name
    measures="host",
)
