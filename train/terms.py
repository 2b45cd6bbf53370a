"""A loss made of several terms, over one or over all scales that a network restores, with or without a critic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.pyramid import halve
from pipeline.errors import UsageError
from train.config_losses import LossTerm, Reduction
from train.losses import LOSSES
from train.perceptual import PerceptualLoss

if TYPE_CHECKING:
    from train.adversarial import PatchAdversary

Distance = Callable[[Tensor, Tensor], Tensor]


class TermsLoss:
    """The weighted sum of its terms (``train.step.LossFn``).

    A term over all scales is the sum, not the mean, of its values at the scales, as the losses of MIMO-UNet and SRN-DeblurNet are.

    Args:
        terms: what is summed.
        adversary: its judgement of the full-size output is one more term.

    Raises:
        UsageError: the weights of a perceptual term cannot be read.
    """

    def __init__(self, terms: Sequence[LossTerm], adversary: PatchAdversary | None = None) -> None:
        self.terms = [(name, term, _distance(term)) for name, term in zip(_names(terms), terms, strict=True)]
        self.adversary = adversary
        self.multiscale = any(term.scales == "all" for term in terms)

    def require(self, network: nn.Module, where: str) -> None:
        """Raise UsageError, at the place ``where``, unless ``network`` restores the scales that the terms compare."""
        if self.multiscale and not hasattr(network, "outputs"):
            index = next(i for i, (_, term, _) in enumerate(self.terms) if term.scales == "all")
            what = f"the network restores the full size alone, but '{self.terms[index][0]}' is to compare all scales"
            raise UsageError(f"{where}.{index}.scales", what, "write 'scales: full', or take a network with several outputs, e.g. mimounet")

    def __call__(self, network: nn.Module, lq: Tensor, gt: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss and its terms, unweighted, by name; ``gt``'s device and type are those that everything is computed on."""
        outputs: list[Tensor] = list(network.outputs(lq)) if self.multiscale else [network(lq)]  # type: ignore[operator]
        total, parts = torch.zeros((), device=gt.device, dtype=gt.dtype), dict[str, Tensor]()
        for name, term, distance in self.terms:
            _follow(distance, gt)
            count = len(outputs) if term.scales == "all" else 1
            targets = smaller(gt, count, term.reduce)
            parts[name] = sum((distance(o, t) for o, t in zip(outputs[:count], targets, strict=True)), start=torch.zeros_like(total))
            total = total + term.weight * parts[name]
        if self.adversary is not None:
            parts["adversarial"] = self.adversary.network_term(outputs[0])
            total = total + self.adversary.config.weight * parts["adversarial"]
        return total, parts


def smaller(image: Tensor, count: int, how: Reduction) -> list[Tensor]:
    """``image`` [N, C, H, W] at ``count`` scales, full size first, each half the one before.

    Bilinear interpolates every scale from the full size, as MIMO-UNet's training does: a pixel at a quarter is the mean of the four in
    the middle of its 4x4. The other ways halve the scale before.
    """
    images = [image]
    for level in range(1, count):
        if how == "bilinear":
            size = image.shape[-2] >> level, image.shape[-1] >> level
            images.append(F.interpolate(image, size, mode="bilinear", align_corners=False))
        else:
            images.append(halve(images[-1], how))
    return images


def _distance(term: LossTerm) -> Distance:
    if term.name != "perceptual":
        return LOSSES[term.name]
    if term.weights is None:
        raise TypeError("a perceptual term has weights")
    return PerceptualLoss(term.weights, term.layer, term.range)


def _names(terms: Sequence[LossTerm]) -> list[str]:
    """A name for each term: that of its distance, with a number where it occurs again."""
    names: list[str] = []
    for i, term in enumerate(terms):
        again = sum(earlier.name == term.name for earlier in terms[:i])
        names.append(f"{term.name}{again + 1}" if again else term.name)
    return names


def _follow(distance: Distance, gt: Tensor) -> None:
    """Bring a distance that has weights to where the images are."""
    if isinstance(distance, PerceptualLoss) and (distance.mean.device, distance.mean.dtype) != (gt.device, gt.dtype):
        distance.to(gt)
