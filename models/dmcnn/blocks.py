"""DMCNN's parts: the dynamic convolution, channel attention and the multi-scale block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DynamicConv(nn.Module):
    """Convolution by a kernel of each pixel's own, one per channel.

    A 1x1 convolution and ReLU generate channels x kernel^2 weights per position, read as [N, C, kernel^2, H, W]; the position's
    neighbourhood in its channel, zero outside of the map, is weighted and summed: unfold(x) as [N, C, kernel^2, H, W] times the
    weights, summed over axis 2. That sum is built up shift by shift from slices: the unfolded map, kernel^2 times the input, never exists.

    Args:
        channels: of input and output.
        kernel: side of the neighbourhood, odd.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.kernel = kernel
        self.generate = nn.Conv2d(channels, channels * kernel**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        weights = F.relu(self.generate(x), inplace=True)
        area, reach = self.kernel**2, self.kernel // 2
        padded = F.pad(x, (reach, reach, reach, reach))
        out: Tensor | None = None
        for i in range(area):
            row, column = divmod(i, self.kernel)
            shifted = padded[:, :, row : self._end(row), column : self._end(column)]
            term = shifted * weights[:, i::area]
            out = term if out is None else out + term
        return x if out is None else out

    def _end(self, start: int) -> int | None:
        """Where a slice ends that begins at ``start`` and is as long as the unpadded side; counted from the end, for any size."""
        return start - self.kernel + 1 or None


class ChannelAttention(nn.Module):
    """Channels times the sigmoid of a 1x1 convolution of their means over the map.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return x * torch.sigmoid(self.conv(self.pool(x)))


class MultiScaleBlock(nn.Module):
    """Two 3x3 convolutions with ReLU, then channel attention.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        x = F.relu(self.first(x), inplace=True)
        out: Tensor = self.attention(F.relu(self.second(x), inplace=True))
        return out
