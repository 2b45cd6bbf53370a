"""The published generator: residual blocks at a quarter of the resolution, behind and before strided convolutions.

Kupyn, Budzan, Mykhailych, Mishkin, Matas: DeblurGAN, CVPR 2018. Parameter names and shapes are the official ones, so that published
weights load. Those have two convolutions per block. Since March 2019 the repository builds blocks with one convolution; with dropout
such a block ends in ReLU and dropout, without it in the normalisation.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.deblurgan.norm import InstanceNorm2d, Statistics, initialise


class ResnetBlock(nn.Module):
    """``x + conv_block(x)`` with reflection padding.

    Args:
        channels: of input and output.
        use_dropout: dropout 0.5 behind the first activation, in train mode.
        convs: convolutions in the block.
        statistics: of the normalisation in eval mode.
    """

    def __init__(self, channels: int, use_dropout: bool, convs: Literal[1, 2], statistics: Statistics) -> None:
        super().__init__()
        linear = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm2d(channels, statistics)]
        dropout = [nn.Dropout(0.5)] if use_dropout else []
        if convs == 2:
            second = [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3), InstanceNorm2d(channels, statistics)]
            parts = [*linear, nn.ReLU(), *dropout, *second]
        else:
            parts = [*linear, nn.ReLU(), *dropout] if use_dropout else linear
        self.conv_block = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W], sides at least 2."""
        out: Tensor = x + self.conv_block(x)
        return out


class ResnetGenerator(nn.Module):
    """The network: ``clamp(x + tanh(f(x)), -1, 1)``.

    Dropout is off in eval mode. The repository's test script leaves the network in train mode: with ``statistics="instance"`` this
    network's eval mode computes the same but for that dropout; ``"running"`` is what the official network computes in eval mode.

    Args:
        ngf: channels at full resolution; four times as many in the blocks.
        n_blocks: residual blocks.
        use_dropout: whether the blocks have dropout; with two convolutions this moves the second one's name.
        convs: convolutions per block.
        statistics: of the normalisation in eval mode.
    """

    size_multiple = 4
    smallest = 8
    """Sides of the input below this leave nothing to reflect in the blocks."""

    def __init__(
        self,
        ngf: int = 64,
        n_blocks: int = 9,
        use_dropout: bool = True,
        convs: Literal[1, 2] = 2,
        statistics: Statistics = "instance",
    ) -> None:
        super().__init__()

        def normal(channels: int) -> list[nn.Module]:
            return [InstanceNorm2d(channels, statistics), nn.ReLU()]

        parts: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7), *normal(ngf)]
        for width in (ngf, 2 * ngf):
            parts += [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), *normal(2 * width)]
        parts += [ResnetBlock(4 * ngf, use_dropout, convs, statistics) for _ in range(n_blocks)]
        for width in (2 * ngf, ngf):
            parts += [nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1), *normal(width)]
        self.model = nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh())
        self._taps = (3, 6, 9 + n_blocks)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Restore x: float32 [N, 3, H, W] in [-1, 1], sides multiples of 4, at least 8; returns the same shape and range."""
        out: Tensor = (x + self.model(x)).clamp(-1, 1)
        return out

    def features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the features at full and half resolution and behind the blocks, coarse last."""
        y, found = x, list[Tensor]()
        for i, part in enumerate(self.model):
            y = part(y)
            if i in self._taps:
                found.append(y)
        return (x + y).clamp(-1, 1), found
