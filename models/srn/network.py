"""SRN-DeblurNet: one recurrent encoder-decoder applied from coarse to fine (Tao et al., CVPR 2018).

This is the PyTorch form in use: 5x5 convolutional LSTM, RGB, gradients flowing between the scales. Parameter names, shapes, input
range and outputs are the ones of the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
"""Hidden state and cell of the LSTM, each [N, C, H, W]."""


class ResBlock(nn.Module):
    """Two 5x5 convolutions with a ReLU between them, and the input added: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 5, padding=2))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out: Tensor = self.conv2(self.conv1(x)) + x
        return out


class EBlock(nn.Module):
    """Convolution, ReLU, three residual blocks: [N, incoming, H, W] -> [N, width, H / stride, W / stride]."""

    def __init__(self, incoming: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = _conv(incoming, width, stride)
        self.resblock_stack = _blocks(width)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out: Tensor = self.resblock_stack(self.conv(x))
        return out


class DBlock(nn.Module):
    """Three residual blocks, transposed convolution, ReLU: [N, incoming, H, W] -> [N, width, 2H, 2W]."""

    def __init__(self, incoming: int, width: int) -> None:
        super().__init__()
        self.resblock_stack = _blocks(incoming)
        deconv = nn.ConvTranspose2d(incoming, width, 5, stride=2, padding=2, output_padding=1)
        self.deconv = nn.Sequential(deconv, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out: Tensor = self.deconv(self.resblock_stack(x))
        return out


class OutBlock(nn.Module):
    """Three residual blocks and a convolution to an image: [N, C, H, W] -> [N, 3, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resblock_stack = _blocks(channels)
        self.conv = nn.Sequential(nn.Conv2d(channels, 3, 5, padding=2))

    def forward(self, x: Tensor) -> Tensor:
        """The image."""
        out: Tensor = self.conv(self.resblock_stack(x))
        return out


class ConvLSTM(nn.Module):
    """Convolutional LSTM cell (Shi et al., NeurIPS 2015), gates in the order input, forget, output, candidate; no forget bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 4 * channels, 5, padding=2)

    def forward(self, x: Tensor, state: State) -> State:
        """From x [N, C, H, W] and the state before it to the state behind it; the hidden part is the cell's output."""
        hidden, cell = state
        gates = self.conv(torch.cat([x, hidden], 1))
        i, f, o, g = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class SRNDeblurNet(nn.Module):
    """The network; all scales share its weights.

    Args:
        channels: of the in-block and the two encoder blocks.
    """

    def __init__(self, channels: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.inblock = EBlock(3 + 3, fine, 1)
        self.eblock1 = EBlock(fine, middle, 2)
        self.eblock2 = EBlock(middle, coarse, 2)
        self.convlstm = ConvLSTM(coarse)
        self.dblock1 = DBlock(coarse, middle)
        self.dblock2 = DBlock(middle, fine)
        self.outblock = OutBlock(fine)
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_normal_(part.weight)

    def forward(self, b1: Tensor, b2: Tensor, b3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Restore an image given at three scales.

        Args:
            b1: float32 [N, 3, H, W] in [-1, 1], RGB, sides multiples of 16.
            b2: the same at half the size.
            b3: the same at a quarter of the size.

        Returns:
            The restored images in the same order and range, unclamped.
        """
        return self.features(b1, b2, b3)[0]

    def features(self, b1: Tensor, b2: Tensor, b3: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], list[Tensor]]:
        """What ``forward`` returns, and the outputs of the encoder at the finest scale, fine first."""
        i3, state, _ = self._step(b3, torch.zeros_like(b3), None)
        i2, state, _ = self._step(b2, _double(i3), (_double(state[0]), _double(state[1])))
        i1, _, scales = self._step(b1, _double(i2), (_double(state[0]), _double(state[1])))
        return (i1, i2, i3), scales

    def _step(self, blurred: Tensor, previous: Tensor, state: State | None) -> tuple[Tensor, State, list[Tensor]]:
        """One scale: the restored image, the LSTM's state and the encoder's outputs; without a state it begins at zero."""
        fine = self.inblock(torch.cat([blurred, previous], 1))
        middle = self.eblock1(fine)
        coarse = self.eblock2(middle)
        state = self.convlstm(coarse, state or (torch.zeros_like(coarse), torch.zeros_like(coarse)))
        decoded = self.dblock2(self.dblock1(state[0]) + middle)
        return self.outblock(decoded + fine), state, [fine, middle, coarse]


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _conv(incoming: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(incoming, width, 5, stride=stride, padding=2), nn.ReLU(inplace=True))


def _blocks(channels: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(channels) for _ in range(3)))
