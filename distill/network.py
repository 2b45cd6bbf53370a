"""How a stage gets its network: loaded from a checkpoint or from published weights, or built and trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from torch import nn

from distill.config import NetworkConfig, check_weights
from distill.settings import DistillConfig, StudentAdversarial
from models import checkpoint
from models.arch import build, load_arch
from models.foreign import load_checkpoint
from models.silent import silence
from models.weights import has_header
from pipeline.contract import StageContext
from pipeline.store import hash_path
from train.config import RecoverConfig, TrainConfig
from train.determinism import seeded
from train.job import FitReport
from train.recover import recover, train_alone
from train.terms import TermsLoss

if TYPE_CHECKING:
    from train.adversarial import PatchAdversary
    from train.config_losses import Adversarial


@dataclass(frozen=True)
class Made:
    """A network (on the CPU, eval mode), what rebuilds it, what was done to it, and a line for the report."""

    network: nn.Module
    arch: str
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    note: str


def loaded(config: NetworkConfig) -> Made:
    """The network in ``config.weights``: a checkpoint of the pipeline, or weights from elsewhere.

    Raises:
        UsageError: no checkpoint, or one of another network than ``config`` says.
    """
    if config.weights is None:
        raise TypeError("no weights to load")
    if not has_header(config.weights):
        return _published(config, config.weights)
    found = checkpoint.load(config.weights)
    check_weights(config, found.arch, found.config)
    return Made(found.module, found.arch, found.config, found.history, f"weights of {config.weights.name}, not trained here")


def _published(config: NetworkConfig, path: Path) -> Made:
    arch = config.arch if "arch" in config.model_fields_set else None
    found = load_checkpoint(path, arch, **config.config)
    kind = "weights" if ":" in found.arch else "official weights"
    history = [{"stage": "weights", "sha256": hash_path(path)}]
    return Made(found.network, found.arch, found.config, history, f"{kind}, not trained here: {path.name}, read as {found.arch}")


def trained(ctx: StageContext, settings: RecoverConfig, label: str) -> Made:
    """The network of ``ctx.config``, initialised from the seed and trained on data role ``train`` with the ground truth alone.

    Raises:
        UsageError: settings that do not fit the network or the images.
        StageFailed: the training diverged.
    """
    train = settings.train.seeded(ctx.seed)
    network = _fresh(ctx.config, train, label)
    report = recover(network, None, ctx.data["train"], settings, ctx.workdir, ctx.progress, ctx.seed, label=label)
    return _made(ctx.config, network, [_entry(label, settings, train, report)], _pace(report))


def distilled(ctx: StageContext, teacher: nn.Module, label: str) -> Made:
    """The network of ``ctx.config`` (a DistillConfig), trained on data role ``train`` with a teacher, and perhaps against a critic.

    Raises:
        UsageError: as ``train.recover.recover``.
        StageFailed: the training diverged, or the disk is full.
    """
    config = ctx.config
    train, critic = config.train.seeded(ctx.seed), config.adversarial
    network = _fresh(config, train, label)
    beside = critic if critic is not None and critic.train is None else None
    history, notes = [], []
    for settings, adversarial, name in ((config, beside, label), *_afterwards(config, label)):
        workdir = ctx.workdir if name == label else ctx.workdir / "adversarial"
        with seeded(train.seed or 0, label, "critic"):
            adversary = _adversary(adversarial)
        report = recover(
            network,
            teacher,
            ctx.data["train"],
            settings,
            workdir,
            ctx.progress,
            ctx.seed,
            label=name,
            adversary=adversary,
            cache_folder=ctx.keep("teacher-cache"),
        )
        entry = _entry(name, settings, settings.train.seeded(ctx.seed), report)
        entry["loss_weights"] = settings.loss_weights.model_dump()
        history.append(entry if adversarial is None else {**entry, "adversarial": _plain(adversarial)})
        notes.append("; ".join(filter(None, (_pace(report), report.teacher))))
    return _made(config, network, history, ", then against a critic ".join(notes))


def _afterwards(config: DistillConfig, label: str) -> Iterator[tuple[DistillConfig, StudentAdversarial, str]]:
    critic = config.adversarial
    if critic is not None and critic.train is not None:
        yield config.model_copy(update={"train": critic.train}), critic, f"{label} against a critic"


def _adversary(adversarial: Adversarial | None) -> PatchAdversary | None:
    from train.adversarial import PatchAdversary

    return PatchAdversary(adversarial) if adversarial is not None else None


def trained_by_terms(ctx: StageContext, label: str) -> Made:
    """As ``trained``, without a teacher and with the loss terms, and perhaps the critic, of ``ctx.config`` (a TeachConfig).

    Raises:
        UsageError: as ``trained``; also scales that the network does not restore, or VGG19 weights that cannot be read.
        StageFailed: the training diverged.
    """
    config, train = ctx.config, ctx.config.train.seeded(ctx.seed)
    network = _fresh(config, train, label)
    with seeded(train.seed or 0, label, "critic"):
        adversary = _adversary(config.adversarial)
    loss = TermsLoss(config.terms(), adversary)
    loss.require(network, f"{label}: loss")
    report = train_alone(network, loss, ctx.data["train"], train, ctx.workdir, ctx.progress, ctx.seed, label=label, adversary=adversary)
    entry: dict[str, Any] = {"stage": label, "steps": report.steps, "seed": train.seed, "loss": [_plain(t) for t in config.terms()]}
    if config.adversarial is not None:
        entry["adversarial"] = _plain(config.adversarial)
    return _made(config, network, [entry], _pace(report))


def _fresh(config: NetworkConfig, train: TrainConfig, label: str) -> nn.Module:
    with seeded(train.seed or 0, label):
        return build(config.arch, config.config)


def _made(config: NetworkConfig, network: nn.Module, history: Sequence[Mapping[str, Any]], note: str) -> Made:
    silent = silence(network)
    if silent:
        note += f"; {silent} channels that training hardly heard are held silent"
    return Made(network, config.arch, load_arch(config.arch).config_of(network), history, note)


def _entry(label: str, settings: RecoverConfig, train: TrainConfig, report: FitReport) -> dict[str, Any]:
    return {"stage": label, "steps": report.steps, "seed": train.seed, "loss": settings.loss}


def _plain(settings: BaseModel) -> dict[str, Any]:
    """What was set, as JSON; files by their names, since folders differ between machines."""
    values = settings.model_dump(exclude_defaults=True)
    return {name: value.name if isinstance(value, Path) else value for name, value in values.items()}


def _pace(report: FitReport) -> str:
    return (
        f"trained {report.steps} steps in {report.seconds:.0f} s ({report.steps_per_second:.2f} steps/s), "
        f"{report.data_wait_share:.0%} of it waiting for data"
    )
