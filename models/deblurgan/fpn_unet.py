"""DeblurGAN's generator as an article describes it: a deep U-Net with a dilated feature pyramid and resize-convolutions.

The description fixes seven strided blocks from 64 to 512 channels and as many up blocks with skips, dilated convolutions behind levels
3 (256 channels, dilation 2) and 5 (512 channels, dilation 4) that are summed after up-sampling, and bilinear up-sampling followed by a
convolution in place of transposed ones (Odena, Dumoulin, Olah: Deconvolution and Checkerboard Artifacts, 2016). It leaves the rest
open; chosen here:

* Channels 64, 128, 256, then 512. All kernels are 3x3 but the one 1x1 below; ReLU and InstanceNorm as in the published generator.
* No normalisation in the deepest block: its map may be a single pixel, which has no statistics. None in the output convolution.
* The pyramid: level 5's dilated features are reduced to 256 channels (1x1), doubled twice, and added to level 3's. The decoder takes
  the sum, added to level 3's own features, as its skip at that level. Other skips are the encoder's features. Skips are concatenated.
* Padding repeats the border, so that an even image stays even up to its edge, and maps of any size can be padded.
* The output is the published one: ``clamp(x + tanh(f(x)), -1, 1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.deblurgan.norm import InstanceNorm2d, Statistics, initialise

_WIDTHS = (1, 2, 4, 8, 8, 8, 8)
"""Channels of the levels, in multiples of ``ngf``."""


class ConvBlock(nn.Module):
    """Convolution, instance normalisation, ReLU.

    Args:
        incoming, width: channels.
        stride, dilation: of the 3x3 convolution.
        statistics: of the normalisation in eval mode; None leaves it out.
    """

    def __init__(self, incoming: int, width: int, stride: int = 1, dilation: int = 1, statistics: Statistics | None = "instance") -> None:
        super().__init__()
        self.conv = nn.Conv2d(incoming, width, 3, stride, dilation, dilation, padding_mode="replicate")
        self.norm = InstanceNorm2d(width, statistics) if statistics else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, incoming, H, W] -> [N, width, H / stride, W / stride]."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class DilatedPyramid(nn.Module):
    """Dilated convolutions over two levels, summed at the finer one.

    Args:
        fine, coarse: channels of the two levels, which lie two halvings apart.
        statistics: of the normalisation in eval mode.
    """

    def __init__(self, fine: int, coarse: int, statistics: Statistics) -> None:
        super().__init__()
        self.fine = ConvBlock(fine, fine, dilation=2, statistics=statistics)
        self.coarse = ConvBlock(coarse, coarse, dilation=4, statistics=statistics)
        self.reduce = nn.Conv2d(coarse, fine, 1)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """[N, fine, H, W], [N, coarse, H / 4, W / 4] -> [N, fine, H, W]."""
        out: Tensor = self.fine(fine) + self.enlarge(self.enlarge(self.reduce(self.coarse(coarse))))
        return out


class FPNUNet(nn.Module):
    """The network.

    Args:
        ngf: channels of the first level.
        statistics: of the normalisation in eval mode.
    """

    size_multiple = 128
    smallest = 128

    def __init__(self, ngf: int = 64, statistics: Statistics = "instance") -> None:
        super().__init__()
        widths = [ngf * w for w in _WIDTHS]
        self.down = nn.ModuleList(
            ConvBlock(before, width, stride=2, statistics=statistics) for before, width in zip([3, *widths[:-2]], widths[:-1], strict=True)
        )
        self.down.append(ConvBlock(widths[-2], widths[-1], stride=2, statistics=None))
        self.pyramid = DilatedPyramid(widths[2], widths[4], statistics)
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.up = nn.ModuleList([ConvBlock(widths[-1], widths[-2], statistics=statistics)])
        for skip, width in zip(widths[-2::-1], [*widths[-3::-1], ngf], strict=True):
            self.up.append(ConvBlock(2 * skip, width, statistics=statistics))
        self.head = nn.Conv2d(ngf, 3, 3, padding=1, padding_mode="replicate")
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Restore x: float32 [N, 3, H, W] in [-1, 1], sides multiples of 128; returns the same shape and range."""
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and what the seven strided blocks returned, coarse last."""
        levels, y = list[Tensor](), x
        for block in self.down:
            y = block(y)
            levels.append(y)
        skips = levels[:-1]
        skips[2] = skips[2] + self.pyramid(levels[2], levels[4])
        y = self.up[0](self.enlarge(y))
        for block in self.up[1:]:
            y = block(self.enlarge(torch.cat([y, skips.pop()], 1)))
        return (x + self.head(y).tanh()).clamp(-1, 1), levels
