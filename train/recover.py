"""Training a network against the ground truth and, where there is one, a teacher: distillation, recovery after pruning, and QAT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from data.crops import CropDataset
from models.arch import size_multiple
from pipeline.contract import PairSource, Progress
from pipeline.errors import UsageError
from train.adversary import Adversary
from train.config import RecoverConfig, TrainConfig
from train.determinism import seeded
from train.features import FeatureLoss, feature_loss
from train.job import FitReport, Validate
from train.loop import fit
from train.losses import LOSSES
from train.phases import phases, samples
from train.step import LossFn


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
    settings, features = config.train.seeded(seed), None
    if teacher is not None and config.loss_weights.feature:
        with seeded(settings.seed or 0, "adapters"):
            features = feature_loss(student, teacher)
    if features is None and teacher is not None and config.loss_weights.feature:
        progress.log(f"{label}: a network has no features to compare, the feature loss is left out")
    return train_alone(
        student,
        TeacherLoss(config, teacher, features),
        source,
        settings,
        workdir,
        progress,
        seed,
        label=label,
        extra_modules=[features] if features is not None else [],
        also=[teacher] if teacher is not None else [],
        validate=validate,
        validate_steps=validate_steps,
        lr_scale=lr_scale,
    )


def train_alone(
    network: nn.Module,
    loss_fn: LossFn,
    source: PairSource,
    config: TrainConfig,
    workdir: Path,
    progress: Progress,
    seed: int,
    *,
    label: str,
    adversary: Adversary | None = None,
    extra_modules: Sequence[nn.Module] = (),
    also: Sequence[nn.Module] = (),
    validate: Validate | None = None,
    validate_steps: int = 0,
    lr_scale: Mapping[str, float] | None = None,
) -> FitReport:
    """Train ``network`` in place with any loss, on crops of ``source``; otherwise as ``recover``.

    Args:
        network: any network of ``models``; afterwards on the CPU in eval mode.
        loss_fn: what is minimised.
        source: pairs to train on.
        config: settings.
        workdir: keeps the training checkpoint; one folder per training.
        progress: told of steps and losses.
        seed: used where ``config.seed`` is null.
        label: names the training in progress and errors.
        adversary: a critic that is trained beside the network.
        extra_modules: modules of the loss that are trained as well.
        also: further networks that see the crops.
        validate: see ``train.loop.fit``.
        validate_steps: see ``train.loop.fit``.
        lr_scale: see ``train.loop.fit``.

    Raises:
        UsageError: a crop is no multiple of what the networks ask for, or the images are smaller than it.
        StageFailed: the training diverged.
    """
    settings = config.seeded(seed)
    check_crops(settings, label, network, *also)
    return fit(
        network,
        loss_fn,
        training_crops(source, settings),
        settings,
        workdir,
        progress,
        label=label,
        extra_modules=extra_modules,
        validate=validate,
        validate_steps=validate_steps,
        lr_scale=lr_scale,
        adversary=adversary,
    )


def training_crops(source: PairSource, config: TrainConfig) -> CropDataset:
    """The crops of a training, all that its steps take.

    Raises:
        UsageError: an image is smaller than the crops of a later phase; the first crop of each is tried, so that a training does not
            fail half-way where all images are too small.
    """
    (_, crop), *later = ((phase.sample, phase.crop) for phase in phases(config))
    crops = CropDataset(source, crop, config.seed or 0, samples(config), config.augment, later)
    for first, _ in later:
        crops[first]
    return crops


def check_crops(config: TrainConfig, label: str, *networks: nn.Module) -> None:
    """Raise UsageError unless all crops of ``config`` are multiples of every network's ``size_multiple``."""
    multiple = math.lcm(*(size_multiple(n) for n in networks))
    crops = {f"train.patches.{i}.crop": patch.crop for i, patch in enumerate(config.patches)} or {"train.crop": config.crop}
    for name, crop in crops.items():
        if crop % multiple:
            below = max(multiple, crop // multiple * multiple)
            raise UsageError(f"{label}: {name}", f"{crop} is no multiple of {multiple}, which the networks need", f"e.g. {below}")
