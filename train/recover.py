"""Training a network against the ground truth and, where there is one, a teacher: distillation, recovery after pruning, and QAT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from data.crops import Beside, CropDataset
from models.spec import size_multiple
from pipeline.contract import PairSource, Progress
from pipeline.errors import UsageError
from train.adversary import Adversary
from train.config import RecoverConfig, TrainConfig
from train.determinism import seeded
from train.features import FeatureLoss, feature_loss
from train.job import FitReport, Validate
from train.loop import fit
from train.phases import phases, samples
from train.step import LossFn
from train.teacher_cache import TeacherCache, open_cache
from train.teacher_files import NotKeptError
from train.teacher_loss import TeacherLoss

if TYPE_CHECKING:
    from train.adversarial import PatchAdversary


FEW_CROPS = 4
"""Measured: a student whose last 3,000 steps had 2 crops of 128 pixels gave 33.4 dB by its batches' statistics and 12 dB by the
running ones, and no better by statistics taken anew over the training images."""


@dataclass(frozen=True, slots=True)
class RecoverReport(FitReport):
    """What became of a training with a teacher; ``teacher`` says in words how it was asked, empty where there was none."""

    teacher: str = ""


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
    adversary: PatchAdversary | None = None,
    cache_folder: Path | None = None,
) -> RecoverReport:
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
        adversary: a critic that is trained beside the student, and judges it.
        cache_folder: where the teacher's answers are kept, may serve several trainings; by default ``workdir``/teacher-cache.

    Raises:
        UsageError: the crop is no multiple of what the networks ask for, or larger than the images; ``config.teacher_cache`` is
            "on" and the answers cannot be kept; ``config.feature_scales`` do not fit the student.
        StageFailed: the training diverged, or the disk is full.
    """
    settings, others = config.train.seeded(seed), [teacher] if teacher is not None else []
    check_crops(settings, label, student, *others)
    features = _features(student, teacher, config, settings, progress, label)
    cache, words = _cache(teacher, source, config, settings, features, cache_folder or workdir / "teacher-cache", progress, label)
    report = train_alone(
        student,
        TeacherLoss(config, teacher if words and not cache else None, features, adversary, cache.kept if cache else None),
        source,
        settings,
        workdir,
        progress,
        seed,
        label=label,
        adversary=adversary,
        extra_modules=[features] if features is not None and len(features.adapters) else [],
        also=others,
        beside=cache,
        validate=validate,
        validate_steps=validate_steps,
        lr_scale=lr_scale,
    )
    return RecoverReport(*astuple(report), teacher=words)


def _features(
    student: nn.Module, teacher: nn.Module | None, config: RecoverConfig, train: TrainConfig, progress: Progress, label: str
) -> FeatureLoss | None:
    kinds = config.loss_weights.of_features()
    if teacher is None or not kinds:
        return None
    with seeded(train.seed or 0, "adapters"):
        features = feature_loss(student, teacher, config.feature_scales, config.temperature, kinds, f"{label}: feature_scales")
    if features is None:
        progress.log(f"{label}: a network has no features to compare, the feature loss is left out")
    return features


def _cache(
    teacher: nn.Module | None,
    source: PairSource,
    config: RecoverConfig,
    train: TrainConfig,
    features: FeatureLoss | None,
    root: Path,
    progress: Progress,
    label: str,
) -> tuple[TeacherCache | None, str]:
    """The teacher's answers, where they are kept, and how it is asked, in words; empty where it is not."""
    response = bool(config.loss_weights.response or config.loss_weights.response_fft)
    if teacher is None or not (response or features is not None):
        return None, ""
    if config.teacher_cache == "off":
        return None, "the teacher was asked about every crop"
    try:
        wanted = response, features.wanted if features is not None else ()
        cache = open_cache(teacher, source, config, train, wanted, root, progress, label)
    except NotKeptError as e:
        if config.teacher_cache == "on":
            raise
        words = f"the teacher was asked about every crop: {e.what}"
        progress.log(f"{label}: {words}")
        return None, words
    return cache, f"the teacher was asked once about each of {len(source)} images"


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
    beside: Beside | None = None,
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
        beside: what else the crops hold; the loss is given it behind the sharp crop.
        validate: see ``train.loop.fit``.
        validate_steps: see ``train.loop.fit``.
        lr_scale: see ``train.loop.fit``.

    Raises:
        UsageError: a crop is no multiple of what the networks ask for, or the images are smaller than it.
        StageFailed: the training diverged.
    """
    settings = config.seeded(seed)
    check_crops(settings, label, network, *also)
    _warn_of_small_batches(network, settings, progress, label)
    return fit(
        network,
        loss_fn,
        training_crops(source, settings, beside),
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


def _warn_of_small_batches(network: nn.Module, config: TrainConfig, progress: Progress, label: str) -> None:
    """Say that a network which normalises by so few crops learns to need just these: with running statistics it may fail altogether."""
    smallest = min(phase.batch for phase in phases(config)) // config.accumulate
    norms = [m for m in network.train().modules() if isinstance(m, nn.BatchNorm2d)]
    if smallest < FEW_CROPS and any(norm.training for norm in norms):  # one that keeps its statistics stays in eval mode
        progress.log(
            f"{label}: batch normalisation over {smallest} crops; below {FEW_CROPS} its running statistics may not fit the weights"
        )


def training_crops(source: PairSource, config: TrainConfig, beside: Beside | None = None) -> CropDataset:
    """The crops of a training, all that its steps take.

    Raises:
        UsageError: an image is smaller than the crops of a later phase; the first crop of each is tried, so that a training does not
            fail half-way where all images are too small.
    """
    (_, crop), *later = ((phase.sample, phase.crop) for phase in phases(config))
    crops = CropDataset(source, crop, config.seed or 0, samples(config), config.augment, later, beside=beside)
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
