"""Training against the float network itself: it should give the same image, and think the same on the way there."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.contract import PairSource, Progress
from train.config import RecoverConfig
from train.features import normalised_mse
from train.job import FitReport
from train.losses import LOSSES
from train.recover import train_alone


class GuideLoss:
    """Weighted sum of distances to the sharp image, to the float network's output, and to its features.

    Both networks have the same channels, so features are compared as they are, without adapters: |ours - theirs|² / |theirs|².

    Args:
        config: loss and weights.
        guide: the float network, frozen by this call.
    """

    def __init__(self, config: RecoverConfig, guide: nn.Module) -> None:
        self.weights, self.distance = config.loss_weights, LOSSES[config.loss]
        self.guide = guide.eval().requires_grad_(False)
        self.features = bool(config.loss_weights.feature) and hasattr(guide, "features")

    def __call__(self, network: nn.Module, lq: Tensor, gt: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its parts (``train.step.LossFn``)."""
        if next(self.guide.parameters()).device != lq.device:
            self.guide.to(lq.device)
        with torch.no_grad():
            wanted, theirs = self._run(self.guide, lq)
        output, ours = self._run(network, lq)
        weights = self.weights
        parts = {"gt": self.distance(output, gt), "response": self.distance(output, wanted)}
        loss = weights.gt * parts["gt"] + weights.response * parts["response"]
        if weights.fft:
            parts["fft"] = LOSSES["fft"](output, gt)
            loss = loss + weights.fft * parts["fft"]
        if self.features:
            parts["feature"] = torch.stack([normalised_mse(a, b) for a, b in zip(ours, theirs, strict=True)]).mean()
            loss = loss + weights.feature * parts["feature"]
        return loss, parts

    def _run(self, network: nn.Module, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        return network.features(lq) if self.features else (network(lq), [])  # type: ignore[operator]


def train_with_guide(
    network: nn.Module,
    guide: nn.Module,
    source: PairSource,
    config: RecoverConfig,
    workdir: Path,
    progress: Progress,
    seed: int,
    *,
    label: str,
    lr_scale: Mapping[str, float],
) -> FitReport:
    """Train ``network`` in place; arguments and errors as ``train.recover.recover``, with the float network as ``guide``."""
    loss = GuideLoss(config, copy.deepcopy(guide))
    return train_alone(network, loss, source, config.train, workdir, progress, seed, label=label, also=[guide], lr_scale=lr_scale)
