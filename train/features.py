"""Feature distillation: the student's features, scale by scale, should resemble the teacher's.

Three measures: ``feature``, the student's features mapped to the teacher's channels should equal the teacher's; ``attention``, both
should be strong at the same places; ``softened``, each channel should be distributed over the image alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.spec import size_multiple
from pipeline.errors import UsageError

Features = Sequence[Tensor] | Mapping[int, Tensor]
"""A network's features by index, fine first, [N, C, H, W] each; a mapping holds those that are needed."""

ADAPTED = ("feature", "softened")
"""The measures that need adapters."""


class FeatureLoss(nn.Module):
    """Trained 1x1 adapters from student to teacher channels, and the distances behind them (hints of FitNets, Romero et al., ICLR 2015).

    The distance of a scale is the squared error over the energy of the teacher's features, per image: 1 for a student that says
    nothing, whatever the teacher's magnitudes.

    Args:
        pairs: for each student scale that is used, (its index, its channels, the teacher's index, the teacher's channels).
        factors: how much each pair counts; empty: all alike.
        temperature: of ``softened``.
        adapted: False: without adapters, for ``attention`` alone.
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int, int, int]], factors: Sequence[float] = (), temperature: float = 4.0, adapted: bool = True
    ) -> None:
        super().__init__()
        self.pairs = tuple((s, t) for s, _, t, _ in pairs)
        self.factors, self.temperature = tuple(factors), temperature
        self.adapters = nn.ModuleList(nn.Conv2d(student, teacher, 1) for _, student, _, teacher in (pairs if adapted else ()))

    @property
    def wanted(self) -> tuple[int, ...]:
        """Indices of the teacher's features that are compared with, in order."""
        return tuple(sorted({t for _, t in self.pairs}))

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Mean distance over the pairs; the features of both networks."""
        return self.parts(student, teacher, ("feature",))["feature"]

    def parts(self, student: Features, teacher: Features, kinds: Iterable[str]) -> dict[str, Tensor]:
        """The measures ``kinds``, means over the pairs, each 0 for equal features."""
        kinds = tuple(kinds)
        adapted = [adapter(student[s]) for adapter, (s, _) in zip(self.adapters, self.pairs, strict=False)]
        theirs = [teacher[t] for _, t in self.pairs]
        found = dict[str, Tensor]()
        if "feature" in kinds:
            found["feature"] = self._mean([normalised_mse(a, t) for a, t in zip(adapted, theirs, strict=True)])
        if "attention" in kinds:
            ours = [student[s] for s, _ in self.pairs]
            found["attention"] = self._mean([attention_distance(a, t) for a, t in zip(ours, theirs, strict=True)])
        if "softened" in kinds:
            terms = [softened_divergence(a, t, self.temperature) for a, t in zip(adapted, theirs, strict=True)]
            found["softened"] = self._mean(terms)
        return found

    def _mean(self, terms: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(terms))
        if not self.factors:
            return stacked.mean()
        factors = stacked.new_tensor(self.factors)
        return (factors * stacked).sum() / factors.sum()


def normalised_mse(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of |output - wanted|² / |wanted|², ``output`` resampled to the size of ``wanted`` [N, C, H, W] where it differs."""
    output, wanted = output.float(), wanted.float()
    if output.shape[-2:] != wanted.shape[-2:]:
        output = _resample(output, wanted.shape[-2], wanted.shape[-1])
    error = (output - wanted).square().sum(dim=(1, 2, 3))
    energy = wanted.square().sum(dim=(1, 2, 3))
    return (error / (energy + 1e-6)).mean()


def attention_distance(output: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of the squared distance between attention maps of unit length, from 0 (equal) to 2 (nothing in common).

    A map is the sum of the squared channels (Zagoruyko & Komodakis, ICLR 2017, F²sum); the numbers of channels [N, C, H, W] may differ,
    and the map of ``output`` is resampled to the size of ``wanted`` where that differs.
    """
    ours, theirs = (x.float().square().sum(dim=1, keepdim=True) for x in (output, wanted))
    if ours.shape[-2:] != theirs.shape[-2:]:
        ours = _resample(ours, theirs.shape[-2], theirs.shape[-1])
    ours, theirs = (F.normalize(x.flatten(1), dim=1, eps=1e-6) for x in (ours, theirs))
    return (ours - theirs).square().sum(dim=1).mean()


def softened_divergence(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T² times the Kullback-Leibler divergence, in nats, between the channels as distributions over the image; mean over channels, images.

    A channel's distribution is the softmax of its values over T, over all places (channel-wise distillation, Shu et al., ICCV 2021;
    T² keeps the gradient's magnitude, Hinton et al., 2015). ``output`` [N, C, H, W] has the channels of ``wanted``, and is resampled to
    its size where that differs.
    """
    output, wanted = output.float(), wanted.float()
    if output.shape[-2:] != wanted.shape[-2:]:
        output = _resample(output, wanted.shape[-2], wanted.shape[-1])
    ours, theirs = (F.log_softmax(x.flatten(2) / temperature, dim=2) for x in (output, wanted))
    return temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=2).mean()


def _resample(x: Tensor, height: int, width: int) -> Tensor:
    if x.shape[-2] > height:
        return F.adaptive_avg_pool2d(x, (height, width))
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


def feature_loss(
    student: nn.Module,
    teacher: nn.Module,
    scales: Sequence[float] = (),
    temperature: float = 4.0,
    kinds: Iterable[str] = ("feature",),
    where: str = "feature_scales",
) -> FeatureLoss | None:
    """The feature loss between two networks of ``models``, freshly initialised; None where one of them has no features.

    Each scale of the student is paired with the teacher's scale of the nearest resolution, the deeper one where two are equal.

    Args:
        student: the network to be trained.
        teacher: the one to resemble.
        scales: how much each of the student's scales counts, fine first; empty: all alike. One that counts 0 is not compared.
        temperature: see ``softened_divergence``.
        kinds: the measures that will be asked for.
        where: names ``scales`` in errors.

    Raises:
        UsageError: not as many ``scales`` as the student has.
    """
    side = math.lcm(size_multiple(student), size_multiple(teacher))
    side *= math.ceil(64 / side)
    ours, theirs = probe(student, side), probe(teacher, side)
    if not ours or not theirs:
        return None
    if scales and len(scales) != len(ours):
        sizes = ", ".join(f"1/{side // height}" for _, height in ours)
        raise UsageError(where, f"{len(scales)} factors for {len(ours)} scales of features ({sizes})", f"give {len(ours)}, fine first")
    pairs = []
    for index, (channels, height) in enumerate(ours):
        match = min(range(len(theirs)), key=lambda t: (abs(math.log2(theirs[t][1] / height)), -t))
        if not scales or scales[index]:
            pairs.append((index, channels, match, theirs[match][0]))
    return FeatureLoss(pairs, [s for s in scales if s], temperature, any(kind in ADAPTED for kind in kinds))


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
