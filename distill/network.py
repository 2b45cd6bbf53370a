"""How a stage gets its network: loaded from a checkpoint, or built and trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distill.config import NetworkConfig, check_weights
from models import checkpoint
from models.arch import build, load_arch
from pipeline.contract import StageContext
from train.config import RecoverConfig
from train.determinism import seeded
from train.job import FitReport
from train.recover import recover


@dataclass(frozen=True)
class Made:
    """A network (on the CPU, eval mode), what rebuilds it, what was done to it, and a line for the report."""

    network: nn.Module
    arch: str
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    note: str


def loaded(config: NetworkConfig) -> Made:
    """The network in ``config.weights``.

    Raises:
        UsageError: no checkpoint, or one of another network than ``config`` says.
    """
    if config.weights is None:
        raise TypeError("no weights to load")
    found = checkpoint.load(config.weights)
    check_weights(config, found.arch, found.config)
    return Made(found.module, found.arch, found.config, found.history, f"weights of {config.weights.name}, not trained here")


def trained(ctx: StageContext, teacher: nn.Module | None, settings: RecoverConfig, label: str) -> Made:
    """The network of ``ctx.config``, initialised from the seed and trained on data role ``train``.

    Raises:
        UsageError: settings that do not fit the network or the images.
        StageFailed: the training diverged.
    """
    config, train = ctx.config, settings.train.seeded(ctx.seed)
    with seeded(train.seed or 0, label):
        network = build(config.arch, config.config)
    report = recover(network, teacher, ctx.data["train"], settings, ctx.workdir, ctx.progress, ctx.seed, label=label)
    entry = {"stage": label, "steps": report.steps, "seed": train.seed, "loss": settings.loss}
    if teacher is not None:
        entry["loss_weights"] = settings.loss_weights.model_dump()
    return Made(network, config.arch, load_arch(config.arch).config_of(network), [entry], _pace(report))


def _pace(report: FitReport) -> str:
    return (
        f"trained {report.steps} steps in {report.seconds:.0f} s ({report.steps_per_second:.2f} steps/s), "
        f"{report.data_wait_share:.0%} of it waiting for data"
    )
