"""How a stage gets its network: loaded from a checkpoint or from published weights, or built and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from distill.config import NetworkConfig, check_weights
from models import checkpoint
from models.arch import build, load_arch
from models.foreign import load_checkpoint
from models.weights import has_header
from pipeline.contract import StageContext
from pipeline.store import hash_path
from train.config import RecoverConfig, TrainConfig
from train.determinism import seeded
from train.job import FitReport
from train.recover import recover, train_alone
from train.terms import TermsLoss


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


def trained(ctx: StageContext, teacher: nn.Module | None, settings: RecoverConfig, label: str) -> Made:
    """The network of ``ctx.config``, initialised from the seed and trained on data role ``train``.

    Raises:
        UsageError: settings that do not fit the network or the images.
        StageFailed: the training diverged.
    """
    train = settings.train.seeded(ctx.seed)
    network = _fresh(ctx.config, train, label)
    report = recover(network, teacher, ctx.data["train"], settings, ctx.workdir, ctx.progress, ctx.seed, label=label)
    entry: dict[str, Any] = {"stage": label, "steps": report.steps, "seed": train.seed, "loss": settings.loss}
    if teacher is not None:
        entry["loss_weights"] = settings.loss_weights.model_dump()
    return _made(ctx.config, network, entry, report)


def trained_by_terms(ctx: StageContext, label: str) -> Made:
    """As ``trained``, without a teacher and with the loss terms, and perhaps the critic, of ``ctx.config`` (a TeachConfig).

    Raises:
        UsageError: as ``trained``; also scales that the network does not restore, or VGG19 weights that cannot be read.
        StageFailed: the training diverged.
    """
    from train.adversarial import PatchAdversary

    config, train = ctx.config, ctx.config.train.seeded(ctx.seed)
    network = _fresh(config, train, label)
    with seeded(train.seed or 0, label, "critic"):
        adversary = PatchAdversary(config.adversarial) if config.adversarial is not None else None
    loss = TermsLoss(config.terms(), adversary)
    loss.require(network, f"{label}: loss")
    report = train_alone(network, loss, ctx.data["train"], train, ctx.workdir, ctx.progress, ctx.seed, label=label, adversary=adversary)
    entry: dict[str, Any] = {"stage": label, "steps": report.steps, "seed": train.seed, "loss": [_plain(t) for t in config.terms()]}
    if config.adversarial is not None:
        entry["adversarial"] = _plain(config.adversarial)
    return _made(config, network, entry, report)


def _fresh(config: NetworkConfig, train: TrainConfig, label: str) -> nn.Module:
    with seeded(train.seed or 0, label):
        return build(config.arch, config.config)


def _made(config: NetworkConfig, network: nn.Module, entry: Mapping[str, Any], report: FitReport) -> Made:
    return Made(network, config.arch, load_arch(config.arch).config_of(network), [entry], _pace(report))


def _plain(settings: BaseModel) -> dict[str, Any]:
    """What was set, as JSON; files by their names, since folders differ between machines."""
    values = settings.model_dump(exclude_defaults=True)
    return {name: value.name if isinstance(value, Path) else value for name, value in values.items()}


def _pace(report: FitReport) -> str:
    return (
        f"trained {report.steps} steps in {report.seconds:.0f} s ({report.steps_per_second:.2f} steps/s), "
        f"{report.data_wait_share:.0%} of it waiting for data"
    )
