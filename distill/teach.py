"""Train the teacher, or load it from a checkpoint."""

from __future__ import annotations

from pydantic import Field

from distill.config import NetworkConfig
from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from train.config import LossName, LossWeights, RecoverConfig, TrainConfig


class TeachTrain(TrainConfig):
    """The teacher's training; the defaults take two to three minutes on two CPU cores."""

    steps: int = Field(default=1600, ge=1, description="optimizer steps")


class TeachConfig(NetworkConfig):
    """The teacher."""

    arch: str = Field(default="nafnet", description="folder in models/, or package.module:Class of your own")
    train: TeachTrain = Field(default=TeachTrain(), description="the training; not used with 'weights'")
    loss: LossName = Field(default="mse", description="distance to the sharp image")

    def settings(self) -> RecoverConfig:
        """The training as ``train.recover`` takes it: the ground truth alone."""
        return RecoverConfig(train=self.train, loss=self.loss, loss_weights=LossWeights(response=0, feature=0))


def run(ctx: StageContext) -> StageResult:
    """Train on ``train``, or load; measure on ``test``."""
    from distill.measure import hand_on
    from distill.network import loaded, trained

    return hand_on(ctx, loaded(ctx.config) if ctx.config.weights else trained(ctx, None, ctx.config.settings(), "teach"))


STAGE = StageSpec(
    run=run,
    config=TeachConfig,
    consumes={},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES},
    data=("train", "test"),
    toolchain=("torch", "lightning", "numpy", "scikit-image"),
    code=("models",),  # the architecture is found by name
)
