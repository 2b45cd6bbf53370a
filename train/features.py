"""Feature distillation: the student's features, mapped to the teacher's channels, should equal the teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.arch import size_multiple


class FeatureLoss(nn.Module):
    """Trained 1x1 adapters from student to teacher channels, and the distance behind them (hints of FitNets, Romero et al., ICLR 2015).

    The distance of a scale is the squared error over the energy of the teacher's features, per image: 1 for a student that says
    nothing, whatever the teacher's magnitudes.

    Args:
        pairs: for each student scale that is used, (its index, its channels, the teacher's index, the teacher's channels).
    """

    def __init__(self, pairs: Sequence[tuple[int, int, int, int]]) -> None:
        super().__init__()
        self.pairs = tuple((s, t) for s, _, t, _ in pairs)
        self.adapters = nn.ModuleList(nn.Conv2d(student, teacher, 1) for _, student, _, teacher in pairs)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Mean distance over the pairs; the features of both networks, [N, C, H, W] each, fine first."""
        terms = [normalised_mse(adapter(student[s]), teacher[t]) for adapter, (s, t) in zip(self.adapters, self.pairs, strict=True)]
        return torch.stack(terms).mean()


def normalised_mse(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of |output - wanted|² / |wanted|², ``output`` resampled to the size of ``wanted`` [N, C, H, W] where it differs."""
    output, wanted = output.float(), wanted.float()
    if output.shape[-2:] != wanted.shape[-2:]:
        output = _resample(output, wanted.shape[-2], wanted.shape[-1])
    error = (output - wanted).square().sum(dim=(1, 2, 3))
    energy = wanted.square().sum(dim=(1, 2, 3))
    return (error / (energy + 1e-6)).mean()


def _resample(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-2] > height:
        return F.adaptive_avg_pool2d(x, (height, width))
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def feature_loss(student: nn.Module, teacher: nn.Module) -> FeatureLoss | None:
    """The feature loss between two networks of ``models``, freshly initialised; None where one of them has no features.

    Each scale of the student is paired with the teacher's scale of the nearest resolution, the deeper one where two are equal.
    """
    side = math.lcm(size_multiple(student), size_multiple(teacher))
    side *= math.ceil(64 / side)
    ours, theirs = probe(student, side), probe(teacher, side)
    if not ours or not theirs:
        return None
    pairs = []
    for index, (channels, height) in enumerate(ours):
        match = min(range(len(theirs)), key=lambda t: (abs(math.log2(theirs[t][1] / height)), -t))
        pairs.append((index, channels, match, theirs[match][0]))
    return FeatureLoss(pairs)


@torch.no_grad()
def probe(network: nn.Module, side: int) -> list[tuple[int, int]]:
    """(channels, height) of each of the network's features for an input of ``side`` x ``side`` pixels; leaves it as it was."""
    if not hasattr(network, "features"):
        return []
    parameter = next(network.parameters())
    training = network.training
    network.eval()
    try:
        _, features = network.features(torch.zeros(1, 3, side, side, device=parameter.device))  # type: ignore[operator]
    finally:
        network.train(training)
    return [(f.shape[1], f.shape[2]) for f in features]
