"""The loss of a training with a teacher, who is asked about every batch or whose answers come with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from train.config import RecoverConfig
from train.features import FeatureLoss, Features
from train.losses import LOSSES
from train.teacher_files import Kept

if TYPE_CHECKING:
    from train.adversarial import PatchAdversary


class TeacherLoss:
    """Weighted sum of distances to the sharp image, to the teacher's output and to its features.

    The teacher runs once per batch, without gradients, in the precision of the training; or its answers come with the batch.

    Args:
        config: loss and weights.
        teacher: frozen by this call and kept in eval mode; None: no teacher, or its answers come with the batch.
        features: the measures between features with their adapters, where they are used; train it with the network.
        adversary: its judgement of the output is one more term.
        kept: what the batches hold of the teacher's answers: then the loss takes them behind ``gt``, in this order.
    """

    def __init__(
        self,
        config: RecoverConfig,
        teacher: nn.Module | None,
        features: FeatureLoss | None = None,
        adversary: PatchAdversary | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.weights, self.distance, self.features, self.kept = config.loss_weights, LOSSES[config.loss], features, kept
        self.kinds = self.weights.of_features() if features is not None else ()
        self.adversary = adversary
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None

    def __call__(self, network: nn.Module, lq: Tensor, gt: Tensor, *answers: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its parts, unweighted (``train.step.LossFn``)."""
        output, ours = network.features(lq) if self.features else (network(lq), [])  # type: ignore[operator]
        parts = {"gt": self.distance(output, gt)}
        if self.weights.fft:
            parts["fft"] = LOSSES["fft"](output, gt)
        if self.teacher is not None or self.kept is not None:
            parts |= self._taught(output, ours, *(self._teach(lq) if self.kept is None else self._unpack(answers)))
        factors: dict[str, float] = self.weights.model_dump()
        if self.adversary is not None:
            parts["adversarial"], factors["adversarial"] = self.adversary.network_term(output), self.adversary.config.weight
        return sum((factors[name] * part for name, part in parts.items()), start=torch.zeros_like(parts["gt"])), parts

    def _taught(self, output: Tensor, ours: Features, wanted: Tensor | None, theirs: Features) -> dict[str, Tensor]:
        parts = dict[str, Tensor]()
        if self.weights.response and wanted is not None:
            parts["response"] = self.distance(output, wanted)
        if self.weights.response_fft and wanted is not None:
            parts["response_fft"] = LOSSES["fft"](output, wanted)
        if self.features:
            parts |= self.features.parts(ours, theirs, self.kinds)
        return parts

    def _unpack(self, answers: Sequence[Tensor]) -> tuple[Tensor | None, dict[int, Tensor]]:
        kept = self.kept
        if kept is None or len(answers) != len(kept.names):
            raise TypeError(f"{len(answers)} of the teacher's answers came with the batch, not {kept}")
        whole = [a.float() for a in answers]
        return (whole[0] if kept.response else None), dict(zip(kept.features, whole[kept.response :], strict=True))

    @torch.no_grad()
    def _teach(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        teacher = self.teacher
        if teacher is None:
            raise TypeError("there is no teacher")
        if next((p.device for p in teacher.parameters()), lq.device) != lq.device:
            teacher.to(lq.device)
        output, features = teacher.features(lq) if self.features else (teacher(lq), [])  # type: ignore[operator]
        return output, features
