"""Critics: networks that score patches of an image as sharp or restored. They are trained beside a generator and never deployed."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.deblurgan.norm import InstanceNorm2d, initialise

CriticNorm = Literal["instance", "none"]
"""instance is the published choice; none is what Gulrajani et al. (Improved Training of Wasserstein GANs, 2017) train with a gradient
penalty where batches would couple the images (instance normalisation does not)."""


class PatchGAN(nn.Module):
    """The published critic (Isola et al., CVPR 2017): 4x4 convolutions, one score per overlapping patch (70 pixels with 3 layers).

    Parameter names are the official ones; padding is 2. ``norm="none"`` keeps the names of all convolutions.

    Args:
        channels: of the first convolution; doubled per layer up to eight times as many.
        layers: strided convolutions.
        norm: between the convolutions.
        sigmoid: whether scores are squeezed into (0, 1); a Wasserstein critic wants them as they are.
    """

    def __init__(self, channels: int = 64, layers: int = 3, norm: CriticNorm = "instance", sigmoid: bool = False) -> None:
        super().__init__()
        widths = [channels * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=2), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            stride = 1 if i == layers else 2
            parts += [nn.Conv2d(widths[i - 1], widths[i], 4, stride=stride, padding=2), _norm(norm, widths[i]), nn.LeakyReLU(0.2)]
        parts.append(nn.Conv2d(widths[-1], 1, 4, padding=2))
        self.model = nn.Sequential(*parts, *([nn.Sigmoid()] if sigmoid else []))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [N, 1, h, w] of an image: float32 [N, 3, H, W] in [-1, 1]."""
        scores: Tensor = self.model(image)
        return scores


class ArticlePatchGAN(nn.Module):
    """A wider critic, as an article describes it: 7x7 stem of stride 2, then 128, 256, 512 and 1024 channels, and a 1x1 head.

    Left open there and chosen here: 4x4 kernels of stride 2 for 128 to 512 channels, and 3x3 of stride 1 for the last; LeakyReLU of
    slope 0.2; no normalisation behind the stem.

    Args:
        channels: of the stem; doubled four times.
        norm: behind the convolutions that follow the stem.
        sigmoid: whether scores are squeezed into (0, 1).
    """

    def __init__(self, channels: int = 64, norm: CriticNorm = "instance", sigmoid: bool = False) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 7, stride=2, padding=3), nn.LeakyReLU(0.2)]
        for i in range(4):
            before, width = channels * 2**i, channels * 2 ** (i + 1)
            conv = nn.Conv2d(before, width, 4, stride=2, padding=1) if i < 3 else nn.Conv2d(before, width, 3, padding=1)
            parts += [conv, _norm(norm, width), nn.LeakyReLU(0.2)]
        parts.append(nn.Conv2d(16 * channels, 1, 1))
        self.model = nn.Sequential(*parts, *([nn.Sigmoid()] if sigmoid else []))
        initialise(self)

    def forward(self, image: Tensor) -> Tensor:
        """Scores [N, 1, H / 16, W / 16] of an image: float32 [N, 3, H, W] in [-1, 1], sides multiples of 16."""
        scores: Tensor = self.model(image)
        return scores


def _norm(norm: CriticNorm, channels: int) -> nn.Module:
    return InstanceNorm2d(channels) if norm == "instance" else nn.Identity()
