"""The student network."""

from __future__ import annotations

from torch import Tensor, nn

from models.student.blocks import Add, Block, Concat, ConvBnAct, Unshuffle, Up
from models.student.config import BlockSpec, DecoderSpec, NetworkSpec


class Student(nn.Module):
    """MobileNetV3-style U-Net: unshuffle, stem, encoder, decoder with skips, head, shuffle, and the input added at the end.

    It starts as nearly the identity. The head must not be pruned: its channels are the image's.

    Args:
        spec: every width, kernel, activation and kind of block.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels, bn = 3 * spec.unshuffle**2, spec.batchnorm
        self.size_multiple = spec.unshuffle * 2 ** (len(spec.encoder) - 1)
        self.unshuffle = Unshuffle(spec.unshuffle)
        self.stem = ConvBnAct(channels, spec.stem.width, spec.stem.kernel, 1, spec.stem.activation, batchnorm=bn)
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        widths, width = [], spec.stem.width
        for scale, blocks in enumerate(spec.encoder):
            self.encoder.append(_blocks(width, blocks, bn, stride=2 if scale else 1))
            width = blocks[-1].width if blocks else width
            widths.append(width)
        for decoder, skip in zip(spec.decoder, widths[-2::-1], strict=True):
            self.decoder.append(DecoderScale(width, skip, decoder, bn))
            width = decoder.blocks[-1].width if decoder.blocks else decoder.merge or decoder.width
        self.head = nn.Conv2d(width, channels, spec.head_kernel, padding=spec.head_kernel // 2)
        self.shuffle = nn.PixelShuffle(spec.unshuffle) if spec.unshuffle > 1 else nn.Identity()
        self.residual = Add()
        for parameter, spread in zip(self.head.parameters(), (1e-3, 0.0), strict=True):
            nn.init.normal_(parameter, std=spread)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [0, 1], sides multiples of ``size_multiple``; returns the same shape, unclamped."""
        return self.features(lq)[0]

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the outputs of the encoder's scales, fine first; the last one is the bottleneck."""
        x = self.stem(self.unshuffle(lq))
        scales: list[Tensor] = []
        for encoder in self.encoder:
            x = encoder(x)
            scales.append(x)
        for decoder, skip in zip(self.decoder, scales[-2::-1], strict=True):
            x = decoder(x, skip)
        return self.residual(lq, self.shuffle(self.head(x))), scales


class DecoderScale(nn.Module):
    """Up-samples by 2, merges the skip connection, refines."""

    def __init__(self, incoming: int, skip: int, spec: DecoderSpec, batchnorm: bool) -> None:
        super().__init__()
        self.up = Up(incoming, spec.width, spec.upsample, batchnorm)
        self.join: nn.Module = Concat() if spec.skip == "concat" else Add()
        self.merge: nn.Module = nn.Identity()
        width = spec.width
        if spec.skip == "concat":
            self.merge = ConvBnAct(spec.width + skip, spec.merge, activation=spec.activation, batchnorm=batchnorm)
            width = spec.merge
        self.blocks = _blocks(width, spec.blocks, batchnorm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[N, incoming, H, W] and [N, skip, 2H, 2W] -> [N, width, 2H, 2W]."""
        out: Tensor = self.blocks(self.merge(self.join(self.up(x), skip)))
        return out


def _blocks(incoming: int, specs: tuple[BlockSpec, ...], batchnorm: bool, stride: int = 1) -> nn.Sequential:
    blocks = nn.Sequential()
    for index, spec in enumerate(specs):
        blocks.append(Block(incoming, spec, 1 if index else stride, batchnorm))
        incoming = spec.width
    return blocks
