"""Train the teacher, or load it from a checkpoint of the pipeline's or from published weights."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from distill.config import NetworkConfig, own_code
from pipeline.contract import Kind, StageContext, StageResult, StageSpec
from train.config import LossName, LossWeights, RecoverConfig, TrainConfig
from train.config_losses import Adversarial, LossTerm


class TeachTrain(TrainConfig):
    """The teacher's training; the defaults take two to three minutes on two CPU cores."""

    steps: int = Field(default=1600, ge=1, description="optimizer steps")


def _form(loss: Any) -> str:
    return "terms[]" if isinstance(loss, list | tuple) else "name[]"  # the brackets keep these words out of error messages' paths


Terms = Annotated[tuple[LossTerm, ...], Field(min_length=1)]
Loss = Annotated[Annotated[LossName, Tag("name[]")] | Annotated[Terms, Tag("terms[]")], Discriminator(_form)]


class TeachConfig(NetworkConfig):
    """The teacher."""

    arch: str = Field(default="nafnet", description="folder in models/, or package.module:Class of your own")
    train: TeachTrain = Field(default=TeachTrain(), description="the training; not used with 'weights'")
    loss: Loss = Field(default="mse", description="distance to the sharp image, or a list of terms: [{name: l1, weight: 1}, ...]")
    adversarial: Adversarial | None = Field(default=None, description="a critic that is trained against the teacher; null: none")

    def settings(self) -> RecoverConfig | None:
        """The training as ``train.recover`` takes it, with the ground truth alone; None when the loss is more than a name."""
        if not isinstance(self.loss, str) or self.adversarial is not None:
            return None
        return RecoverConfig(train=self.train, loss=self.loss, loss_weights=LossWeights(response=0, feature=0))

    def terms(self) -> tuple[LossTerm, ...]:
        """The loss as a list of terms."""
        return (LossTerm(name=self.loss),) if isinstance(self.loss, str) else self.loss


def run(ctx: StageContext) -> StageResult:
    """Train on ``train``, or load; measure on ``test``."""
    from distill.measure import hand_on
    from distill.network import loaded, trained, trained_by_terms

    if ctx.config.weights:
        return hand_on(ctx, loaded(ctx.config))
    settings = ctx.config.settings()
    return hand_on(ctx, trained(ctx, settings, "teach") if settings is not None else trained_by_terms(ctx, "teach"))


STAGE = StageSpec(
    run=run,
    config=TeachConfig,
    consumes={},
    produces={"model": Kind.CHECKPOINT, "samples": Kind.SAMPLES},
    data=("train", "test"),
    toolchain=("torch", "lightning", "numpy", "scikit-image"),
    code=("models",),  # the architecture is found by name
    code_of=own_code,
    ranks="all",
)
