"""What the two stages' configurations hold, their defaults among it. Importing this does not load torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, NonNegativeFloat, Tag, field_validator

from distill.config import NetworkConfig
from train.config import CacheMode, LossName, LossWeights, RecoverConfig, TrainConfig
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
