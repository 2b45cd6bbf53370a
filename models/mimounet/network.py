"""MIMO-UNet and MIMO-UNet+: coarse to fine in one U-Net with three inputs and three outputs (Cho et al., ICCV 2021).

Parameter names, shapes, input range and outputs are the official ones, so that published checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.pyramid import pyramid


class BasicConv(nn.Module):
    """A convolution that keeps (or with ``stride`` 2 halves, transposed doubles) height and width, and a ReLU unless told otherwise.

    Args:
        incoming, width: channels.
        kernel: odd; 4 for the transposed one.
        stride: 1 or 2.
        relu: whether a ReLU follows.
        transpose: up-sample by ``stride``.
    """

    def __init__(self, incoming: int, width: int, kernel: int, stride: int = 1, relu: bool = True, transpose: bool = False) -> None:
        super().__init__()
        conv: nn.Module
        if transpose:
            conv = nn.ConvTranspose2d(incoming, width, kernel, stride, padding=kernel // 2 - 1)
        else:
            conv = nn.Conv2d(incoming, width, kernel, stride, padding=kernel // 2)
        self.main = nn.Sequential(conv, nn.ReLU(inplace=True)) if relu else nn.Sequential(conv)

    def forward(self, x: Tensor) -> Tensor:
        """[N, incoming, H, W] -> [N, width, H', W']."""
        out: Tensor = self.main(x)
        return out


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them, and the input added: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(BasicConv(channels, channels, 3), BasicConv(channels, channels, 3, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out: Tensor = self.main(x) + x
        return out


class Stage(nn.Module):
    """Residual blocks of one scale of the encoder or decoder."""

    def __init__(self, channels: int, num_res: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ResBlock(channels) for _ in range(num_res)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        out: Tensor = self.layers(x)
        return out


class SCM(nn.Module):
    """Shallow features of a down-sampled image, the image among them: [N, 3, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter, half = channels // 4, channels // 2
        self.main = nn.Sequential(
            BasicConv(3, quarter, 3), BasicConv(quarter, half, 1), BasicConv(half, half, 3), BasicConv(half, channels - 3, 1)
        )
        self.conv = BasicConv(channels, channels, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        out: Tensor = self.conv(torch.cat([x, self.main(x)], 1))
        return out


class FAM(nn.Module):
    """Lets the features of the down-sampled image gate the encoder's: both [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.merge = BasicConv(channels, channels, 3, relu=False)

    def forward(self, x: Tensor, shallow: Tensor) -> Tensor:
        """``x`` and a convolution of its product with ``shallow``."""
        out: Tensor = x + self.merge(x * shallow)
        return out


class AFF(nn.Module):
    """Fuses the encoder's three scales at one of them: a 1x1 convolution over their concatenation, then a 3x3.

    The 1x1 convolution is computed per scale, before nearest up-sampling rather than behind it, and summed: the same function
    without the large concatenation.

    Args:
        incoming: channels of the three scales together.
        width: channels that it returns.
        scale: index of the scale to fuse at, 0 being the finest; the others are resampled to it by nearest neighbour.
    """

    def __init__(self, incoming: int, width: int, scale: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(BasicConv(incoming, width, 1), BasicConv(width, width, 3, relu=False))
        self.scale = scale

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        """Features of all scales, fine first, each half the size of the one before -> [N, width, H, W] of this scale."""
        first: Any = self.conv[0]
        fuse = first.main[0]
        parts = fuse.weight.split([x.shape[1] for x in scales], 1)
        total = F.conv2d(scales[self.scale], parts[self.scale], fuse.bias)
        for index, (x, weight) in enumerate(zip(scales, parts, strict=True)):
            if index < self.scale:
                step = 2 ** (self.scale - index)
                # not a strided convolution: the backward of a 1x1 one with few channels corrupts memory (torch 2.13, channels_last, CPU)
                total += F.conv2d(x[..., ::step, ::step], weight)
            elif index > self.scale:
                total += F.interpolate(F.conv2d(x, weight), scale_factor=2.0 ** (index - self.scale), mode="nearest")
        out: Tensor = self.conv[1](F.relu_(total))
        return out


class MIMOUNet(nn.Module):
    """The network; MIMO-UNet has 8 residual blocks per stage and no dropout, MIMO-UNet+ has 20 and a dropout of 0.1.

    Args:
        num_res: residual blocks per stage.
        base_channel: channels at full resolution, even; doubled at every scale.
        dropout: share of the channels of either fused skip that is dropped in training.
    """

    def __init__(self, num_res: int = 8, base_channel: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        c = base_channel
        self.Encoder = nn.ModuleList(Stage(width, num_res) for width in (c, 2 * c, 4 * c))
        self.feat_extract = nn.ModuleList(
            [
                BasicConv(3, c, 3),
                BasicConv(c, 2 * c, 3, stride=2),
                BasicConv(2 * c, 4 * c, 3, stride=2),
                BasicConv(4 * c, 2 * c, 4, stride=2, transpose=True),
                BasicConv(2 * c, c, 4, stride=2, transpose=True),
                BasicConv(c, 3, 3, relu=False),
            ]
        )
        self.Decoder = nn.ModuleList(Stage(width, num_res) for width in (4 * c, 2 * c, c))
        self.Convs = nn.ModuleList([BasicConv(4 * c, 2 * c, 1), BasicConv(2 * c, c, 1)])
        self.ConvsOut = nn.ModuleList([BasicConv(4 * c, 3, 3, relu=False), BasicConv(2 * c, 3, 3, relu=False)])
        self.AFFs = nn.ModuleList([AFF(7 * c, c, 0), AFF(7 * c, 2 * c, 1)])
        self.FAM1, self.SCM1 = FAM(4 * c), SCM(4 * c)
        self.FAM2, self.SCM2 = FAM(2 * c), SCM(2 * c)
        self.drop1, self.drop2 = nn.Dropout2d(dropout), nn.Dropout2d(dropout)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore x: float32 [N, 3, H, W] in [0, 1], RGB, sides multiples of 4; returns [quarter, half, full], unclamped."""
        return self.features(x)[0]

    def features(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What ``forward`` returns, and the outputs of the encoder's stages, fine first."""
        x = pixels_last(x)
        images = pyramid(x, 3, "nearest")
        scales = self._encode(images)
        half, full = self.drop2(self.AFFs[1](scales)), self.drop1(self.AFFs[0](scales))
        z = self.Decoder[0](scales[2])
        quarter_out = self.ConvsOut[0](z) + images[2]
        z = self.Decoder[1](self.Convs[0](torch.cat([self.feat_extract[3](z), half], 1)))
        half_out = self.ConvsOut[1](z) + images[1]
        z = self.Decoder[2](self.Convs[1](torch.cat([self.feat_extract[4](z), full], 1)))
        return [quarter_out, half_out, self.feat_extract[5](z) + x], scales

    def _encode(self, images: Sequence[Tensor]) -> list[Tensor]:
        full = self.Encoder[0](self.feat_extract[0](images[0]))
        half = self.Encoder[1](self.FAM2(self.feat_extract[1](full), self.SCM2(images[1])))
        quarter = self.Encoder[2](self.FAM1(self.feat_extract[2](half), self.SCM1(images[2])))
        return [full, half, quarter]


def pixels_last(x: Tensor) -> Tensor:
    """[N, C, H, W] with the channels of a pixel side by side in memory: on the CPU these networks are then a fifth faster.

    The values do not change; the convolutions' differ by float rounding.
    """
    if x.device.type != "cpu" or torch.onnx.is_in_onnx_export():  # the exporter has no operator for it
        return x
    return x.contiguous(memory_format=torch.channels_last)
