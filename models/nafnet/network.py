"""NAFNet: a U-Net without activation functions (Chen, Chu, Zhang, Sun: Simple Baselines for Image Restoration, ECCV 2022).

Parameter names and shapes are the official ones, so that published checkpoints load.

On the CPU the maps are kept in NHWC order: there the layer normalisation reads each pixel's channels in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nafnet.layernorm import LayerNorm2d
from models.nafnet.local import LocalAttention, window_of
from models.spec import Padding


class SimpleGate(nn.Module):
    """First half of the channels times the second half: [N, 2C, H, W] -> [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate ``x``."""
        first, second = x.chunk(2, dim=1)
        return first * second


class NAFBlock(nn.Module):
    """Two residual branches: gated depthwise convolution with channel attention, then a gated feed-forward; each scaled from zero.

    Args:
        channels: channels of input and output.
        window: side of the local attention's window in pixels; without it, the attention sees the whole map.
    """

    def __init__(self, channels: int, window: int | None = None) -> None:
        super().__init__()
        c = channels
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.conv3 = nn.Conv2d(c, c, 1)
        self.sca = LocalAttention(c, window) if window else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.sg = SimpleGate()
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.norm1 = LayerNorm2d(c)
        self.norm2 = LayerNorm2d(c)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        gated = self.sg(self.conv2(self.conv1(self.norm1(x))))
        y = x + self.beta * self.conv3(gated * self.sca(gated))
        out: Tensor = y + self.gamma * self.conv5(self.sg(self.conv4(self.norm2(y))))
        return out


class NAFNet(nn.Module):
    """The network. Its input is zero-padded right and bottom to ``size_multiple`` and cropped back, as in the published code.

    Args:
        width: channels at full resolution.
        enc_blk_nums: blocks per encoder scale, fine first.
        middle_blk_num: blocks at the coarsest scale.
        dec_blk_nums: blocks per decoder scale, coarse first.
        tlc: training size in pixels for the test-time local converter; None: attention over the whole image.
    """

    padding: Padding = "zero"

    def __init__(
        self, width: int, enc_blk_nums: Sequence[int], middle_blk_num: int, dec_blk_nums: Sequence[int], tlc: int | None = None
    ) -> None:
        super().__init__()
        self.tlc, self.size_multiple = tlc, 2 ** len(enc_blk_nums)
        self.intro = nn.Conv2d(3, width, 3, padding=1)
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        channels, scale = width, 0
        for count in enc_blk_nums:
            self.encoders.append(self._blocks(channels, count, scale))
            self.downs.append(nn.Conv2d(channels, 2 * channels, 2, stride=2))
            channels, scale = 2 * channels, scale + 1
        self.middle_blks = self._blocks(channels, middle_blk_num, scale)
        for count in dec_blk_nums:
            self.ups.append(nn.Sequential(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2)))
            channels, scale = channels // 2, scale - 1
            self.decoders.append(self._blocks(channels, count, scale))

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], any size; returns the same shape, unclamped."""
        return self._run(lq)

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the outputs of the encoder's scales and of the middle blocks, coarse last."""
        kept: list[Tensor] = []
        return self._run(lq, kept), kept

    def _run(self, lq: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """``forward``; the features are appended to ``kept``: without it, each is freed as soon as the decoder has used it."""
        height, width = lq.shape[-2:]
        padded = self._pad(lq)
        x = self.intro(self._nhwc(padded))
        scales: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            scales.append(encoder(x))
            x = down(scales[-1])
        x = self.middle_blks(x)
        if kept is not None:
            kept.extend([*scales, x])
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = up(x)
            x = x + scales.pop()
            x = decoder(x)
        out: Tensor = self.ending(x) + padded
        return out if padded is lq else out[..., :height, :width]

    def _pad(self, lq: Tensor) -> Tensor:
        bottom, right = (-int(side) % self.size_multiple for side in lq.shape[-2:])
        return F.pad(lq, (0, right, 0, bottom)) if right or bottom else lq

    @staticmethod
    def _nhwc(x: Tensor) -> Tensor:
        on_cpu = x.device.type == "cpu" and not torch.onnx.is_in_onnx_export()
        return x.contiguous(memory_format=torch.channels_last) if on_cpu else x

    def _blocks(self, channels: int, count: int, scale: int) -> nn.Sequential:
        window = None
        if self.tlc is not None:
            padded = -(-self.tlc // self.size_multiple) * self.size_multiple
            window = window_of(padded >> scale, self.tlc)
        return nn.Sequential(*(NAFBlock(channels, window) for _ in range(count)))
