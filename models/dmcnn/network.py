"""DMCNN, dynamic multi-scale CNN: a U-Net of multi-scale blocks with channel attention in its skips and a per-pixel convolution.

Known from one description without code that runs, weights or figures that were measured. It fixes: the dynamic convolution
(kernels from a 1x1 convolution and ReLU, the unfolded neighbourhood weighted and summed per channel), the multi-scale block (two
3x3 convolutions with ReLU, then channel attention), a U-Net body with attention in the skips, and images in [-1, 1]. It leaves open,
and here it is

* the place of the dynamic convolution: the bottleneck, as a residual beside the identity. Its generator costs the same at every scale
  (the channels double where the pixels quarter), but its weights, kernel^2 maps per channel, take half the memory at each coarser
  scale: at full resolution they would be nine times the largest map of the network. There a 3x3 kernel also reaches farthest: 24
  pixels of the image at the default depth, the length of a usual blur. The identity keeps gradients alive where ReLU closes a kernel;
* widths and depths: 32, 64, 128, 256 channels at full, half, quarter and eighth resolution, one block per scale on either side:
  3.24 M parameters and 10.5 GMACs at 3x256x256, two thirds of NAFNet's of width 32;
* down: a 3x3 convolution of stride 2; up: a 1x1 convolution and pixel shuffle, which has no overlaps that show as a checkerboard;
* the skips: weighted by their channel attention and added, not concatenated: a third fewer operations in every decoder block;
* stem and head: one 3x3 convolution each; the head's output is added to the input image, and nothing is clamped.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from models.dmcnn.blocks import ChannelAttention, DynamicConv, MultiScaleBlock


class DMCNN(nn.Module):
    """The network, in its own convention.

    Args:
        widths: channels per scale, fine first; the last is the bottleneck's.
        kernel: side of the dynamic convolution's kernels, odd.
    """

    def __init__(self, widths: Sequence[int], kernel: int = 3) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        self.size_multiple = 2 ** len(pairs)
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoders = nn.ModuleList(MultiScaleBlock(fine) for fine, _ in pairs)
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairs)
        self.bottleneck, self.dynamic = MultiScaleBlock(widths[-1]), DynamicConv(widths[-1], kernel)
        self.ups = nn.ModuleList(nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2)) for fine, coarse in reversed(pairs))
        self.skips = nn.ModuleList(ChannelAttention(fine) for fine, _ in reversed(pairs))
        self.decoders = nn.ModuleList(MultiScaleBlock(fine) for fine, _ in reversed(pairs))
        self.head = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore lq: float32 [N, 3, H, W] in [-1, 1], sides multiples of ``size_multiple``; the same shape and range, unclamped."""
        return self._run(lq)

    def features(self, lq: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The restored image, and the outputs of the encoder's scales and of the bottleneck, coarse last."""
        kept: list[Tensor] = []
        return self._run(lq, kept), kept

    def _run(self, lq: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """``forward``; the features are appended to ``kept``: without it, each is freed as soon as the decoder has used it."""
        x = self.stem(lq)
        scales: list[Tensor] = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            scales.append(encoder(x))
            x = down(scales[-1])
        x = self.bottleneck(x)
        x = x + self.dynamic(x)
        if kept is not None:
            kept.extend([*scales, x])
        for up, skip, decoder in zip(self.ups, self.skips, self.decoders, strict=True):
            x = decoder(up(x) + skip(scales.pop()))
        out: Tensor = self.head(x) + lq
        return out
