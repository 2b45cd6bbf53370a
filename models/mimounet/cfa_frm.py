"""A MIMO-UNet+ with batch normalisation, cross-scale feature aggregation (CFA) and feature recalibration (FRM).

This is the network that descriptions of MIMO-UNet+ often draw. It shares the official one's interface, not its weights: three
scales by bicubic down-sampling, each with a stem of its own; every stage fuses the features of all scales; squeeze-and-excitation on
every skip; three outputs. What those descriptions leave open is chosen so: widths double per scale; CFA is a 1x1 convolution over
the finer encoder outputs (averaged down), the scale's own features and the coarser stems (bilinear); the decoders run coarse to
fine, each fusing its skip with the features of all coarser decoders; recalibration reduces to a quarter of the channels; the
outputs are added to the input. There is no weighted fusion of the outputs: the full size is the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from models.mimounet.network import pixels_last
from models.pyramid import pyramid

SCALES = 3


class ResBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, a ReLU between them, the input added: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, batchnorm: bool) -> None:
        super().__init__()
        first, second = (_conv_bn(channels, channels, 3, batchnorm) for _ in range(2))
        self.main = nn.Sequential(*first, nn.ReLU(inplace=True), *second)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out: Tensor = self.main(x) + x
        return out


class CFA(nn.Module):
    """Cross-scale feature aggregation: features of several scales resampled, concatenated and fused by a 1x1 convolution.

    The convolution is computed per scale, before up-sampling or behind averaging, and summed: the same function without the large
    concatenation.

    Args:
        incoming: channels per source.
        width: channels that it returns.
        shifts: per source, how often it must be doubled in size to fit (negative: halved).
        batchnorm: False: already folded into the convolution, which then has a bias.
    """

    def __init__(self, incoming: Sequence[int], width: int, shifts: Sequence[int], batchnorm: bool) -> None:
        super().__init__()
        self.conv, self.bn = _conv_bn(sum(incoming), width, 1, batchnorm)
        self.shifts = tuple(shifts)

    def forward(self, sources: Sequence[Tensor]) -> Tensor:
        """[N, C_i, H_i, W_i] per source -> [N, width, H, W]."""
        weights = self.conv.weight.split([x.shape[1] for x in sources], 1)  # type: ignore[operator] # its weight is a tensor
        parts = [_project(x, weight, shift) for x, weight, shift in zip(sources, weights, self.shifts, strict=True)]
        total = sum(parts[1:], parts[0])
        if self.conv.bias is not None:
            total = total + self.conv.bias.view(1, -1, 1, 1)  # type: ignore[operator] # likewise
        out: Tensor = F.relu(self.bn(total))
        return out


class FRM(nn.Module):
    """Feature recalibration: every channel weighted by squeeze-and-excitation (Hu et al., CVPR 2018): [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(1, channels // 4), 1)
        self.expand = nn.Conv2d(max(1, channels // 4), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The weighted features."""
        squeezed = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        out: Tensor = x * self.expand(squeezed).sigmoid()
        return out


class CfaFrmUNet(nn.Module):
    """The network.

    Args:
        num_res: residual blocks per stage.
        base_channel: channels at full resolution; doubled at every scale.
        dropout: share of the channels of the two finer skips that is dropped in training.
        batchnorm: False: folded into the convolutions.
    """

    def __init__(self, num_res: int = 20, base_channel: int = 32, dropout: float = 0.1, batchnorm: bool = True) -> None:
        super().__init__()
        widths = [base_channel << scale for scale in range(SCALES)]
        self.stems, self.cfas, self.encoders, self.frms = (nn.ModuleList() for _ in range(4))
        self.fusions, self.decoders, self.heads = (nn.ModuleList() for _ in range(3))
        for scale, width in enumerate(widths):
            self.stems.append(nn.Sequential(*_conv_bn(3, width, 3, batchnorm), nn.ReLU(inplace=True)))
            self.cfas.append(CFA(widths, width, [source - scale for source in range(SCALES)], batchnorm))
            self.encoders.append(_blocks(width, num_res, batchnorm))
            self.frms.append(FRM(width))
            self.fusions.append(CFA(widths[scale:], width, range(SCALES - scale), batchnorm))
            self.decoders.append(_blocks(width, num_res, batchnorm))
            self.heads.append(nn.Conv2d(width, 3, 1))
        self.drop = nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore x: float32 [N, 3, H, W] in [0, 1], RGB, sides multiples of 4; returns [quarter, half, full], unclamped."""
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What ``forward`` returns, and the outputs of the encoder's stages, fine first."""
        images = pyramid(pixels_last(x), SCALES, "bicubic")
        scales = [stem(image) for stem, image in zip(self.stems, images, strict=True)]
        for scale in range(SCALES):  # in place: finer entries are encoder outputs by now, coarser ones still the stems'
            scales[scale] = self.encoders[scale](self.cfas[scale](scales))
        outputs: list[Tensor] = []
        decoded: list[Tensor] = []
        for scale in reversed(range(SCALES)):
            skip = self.frms[scale](scales[scale])
            skip = self.drop(skip) if scale < SCALES - 1 else skip
            decoded.insert(0, self.decoders[scale](self.fusions[scale]([skip, *decoded])))
            outputs.append(self.heads[scale](decoded[0]) + images[scale])
        return outputs, scales


def _project(x: Tensor, weight: Tensor, shift: int) -> Tensor:
    if shift < 0:
        return F.conv2d(F.avg_pool2d(x, 2**-shift), weight)
    part = F.conv2d(x, weight)
    return F.interpolate(part, scale_factor=2.0**shift, mode="bilinear", align_corners=False) if shift else part


def _conv_bn(incoming: int, width: int, kernel: int, batchnorm: bool) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(incoming, width, kernel, padding=kernel // 2, bias=not batchnorm)
    return conv, nn.BatchNorm2d(width) if batchnorm else nn.Identity()


def _blocks(channels: int, count: int, batchnorm: bool) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(channels, batchnorm) for _ in range(count)))
