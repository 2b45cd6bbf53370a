"""Training a network against the ground truth and, where there is one, a teacher: distillation, recovery after pruning, and QAT."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from data.crops import CropDataset
from models.arch import size_multiple
from pipeline.contract import PairSource, Progress
from pipeline.errors import UsageError
from train.config import RecoverConfig, TrainConfig
from train.determinism import seeded
from train.features import FeatureLoss, feature_loss
from train.job import FitReport, Validate
from train.loop import fit
from train.losses import LOSSES


class TeacherLoss:
    """Weighted sum of distances to the sharp image, to the teacher's output and to its features.

    The teacher runs once per batch, without gradients, in the precision of the training.

    Args:
        config: loss and weights.
        teacher: frozen by this call and kept in eval mode; None: the ground truth alone.
        features: the feature loss with its adapters, when it is used; train it with the network.
    """

    def __init__(self, config: RecoverConfig, teacher: nn.Module | None, features: FeatureLoss | None = None) -> None:
        self.weights, self.distance, self.features = config.loss_weights, LOSSES[config.loss], features
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None

    def __call__(self, network: nn.Module, lq: Tensor, gt: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its parts (``train.step.LossFn``)."""
        output, ours = network.features(lq) if self.features else (network(lq), [])  # type: ignore[operator]
        parts = {"gt": self.distance(output, gt)}
        if self.weights.fft:
            parts["fft"] = LOSSES["fft"](output, gt)
        if self.teacher is not None:
            wanted, theirs = self._teach(lq)
            if self.weights.response:
                parts["response"] = self.distance(output, wanted)
            if self.features:
                parts["feature"] = self.features(ours, theirs)
        weights = self.weights.model_dump()
        return sum((weights[name] * part for name, part in parts.items()), start=torch.zeros_like(parts["gt"])), parts

    @torch.no_grad()
    def _teach(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        teacher = self.teacher
        if teacher is None:
            raise TypeError("there is no teacher")
        if next(teacher.parameters()).device != lq.device:
            teacher.to(lq.device)
        output, features = teacher.features(lq) if self.features else (teacher(lq), [])  # type: ignore[operator]
        return output, features


def recover(
    student: nn.Module,
    teacher: nn.Module | None,
    source: PairSource,
    config: RecoverConfig,
    workdir: Path,
    progress: Progress,
    seed: int,
    *,
    label: str = "recover",
    validate: Validate | None = None,
    validate_steps: int = 0,
    lr_scale: Mapping[str, float] | None = None,
) -> FitReport:
    """Train ``student`` in place on crops of ``source``, going on from ``workdir`` where an earlier call was interrupted.

    Args:
        student: any network of ``models``, pruned or fake-quantized or neither; afterwards on the CPU in eval mode.
        teacher: a network of ``models``; None trains with the ground truth alone.
        source: pairs to train on.
        config: settings.
        workdir: keeps the training checkpoint; one folder per training.
        progress: told of steps and losses.
        seed: used where ``config.train.seed`` is null; decides crops and adapters.
        label: names the training in progress and errors.
        validate: see ``train.loop.fit``.
        validate_steps: see ``train.loop.fit``.
        lr_scale: glob pattern over parameter names ("network.…") -> factor on the learning rate, e.g. {"*.scale": 0.1}.

    Raises:
        UsageError: the crop is no multiple of what the networks ask for, or the images are smaller than it.
        StageFailed: the training diverged.
    """
    settings = config.train.seeded(seed)
    check_crop(settings.crop, label, student, *([teacher] if teacher is not None else []))
    crops = training_crops(source, settings)
    features = None
    if teacher is not None and config.loss_weights.feature:
        with seeded(settings.seed or 0, "adapters"):
            features = feature_loss(student, teacher)
    if features is None and teacher is not None and config.loss_weights.feature:
        progress.log(f"{label}: a network has no features to compare, the feature loss is left out")
    return fit(
        student,
        TeacherLoss(config, teacher, features),
        crops,
        settings,
        workdir,
        progress,
        label=label,
        extra_modules=[features] if features is not None else [],
        validate=validate,
        validate_steps=validate_steps,
        lr_scale=lr_scale,
    )


def training_crops(source: PairSource, config: TrainConfig) -> CropDataset:
    """The crops of a training: steps × batch of them."""
    return CropDataset(source, config.crop, config.seed or 0, config.steps * config.batch)


def check_crop(crop: int, label: str, *networks: nn.Module) -> None:
    """Raise UsageError unless ``crop`` is a multiple of every network's ``size_multiple``."""
    multiple = math.lcm(*(size_multiple(n) for n in networks))
    if crop % multiple:
        below = max(multiple, crop // multiple * multiple)
        raise UsageError(f"{label}: train.crop", f"{crop} is no multiple of {multiple}, which the networks need", f"e.g. {below}")
